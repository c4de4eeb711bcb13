"""A provider without a network and without an engine: the test says what the caller says and what the model answers.

It is a plugin object: ``Registry.of([Scripted()])`` has the provider ``scripted`` over every transport. It can also stand
in for pairs of others, `Scripted.stand_in`; then an agent that declares them runs unchanged. Every session at it is a
`ScriptedCall`, with the commands that it was given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from agentfield.errors import AgentFieldError, NotFound, ProviderError
from agentfield.plugins import Capabilities, Manifest, Names, PairSpec, PluginRecord, ProviderInfo, Registry, hookimpl
from agentfield.plugins.checks import CORE_TRANSPORTS
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.spec import PLUGIN_API, Media
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import SessionReady
from agentfield.realtime.provider import AdapterRuntime, Answer, CallRef
from agentfield.testing import answers as told
from agentfield.testing.scripted_call import ScriptedCall

__all__ = ["ANSWER_SDP", "CHARS_PER_SECOND", "Scripted"]

CHARS_PER_SECOND: Final = 15.0
"""How fast people speak."""

ANSWER_SDP: Final = "v=0\r\ns=scripted\r\n"
"""What an offer is answered with: there is no peer, and nobody waits for its audio."""

_MIN_MS: Final = 20
_CALL_WAIT: Final = 10.0
_MODULE: Final = "agentfield.testing.scripted"
_FACTORIES: Final = {"direct": "direct", "bridged": "carried", "turns": "carried"}
_AUDIO: Final = (AudioFormat("pcm16", 24_000), AudioFormat("pcmu", 8000), AudioFormat("pcma", 8000))


def _capabilities(media: Media) -> Capabilities:
    """Return what a scripted pair can do by itself: everything that its media allows."""
    direct, turns = media == "direct", media == "turns"
    return Capabilities(
        say="best_effort",
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"manual"}) if turns else frozenset({"server_vad", "semantic_vad", "manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="async",
        caller_transcript="final",
        agent_transcript="final",
        default_transcription="scripted",
        interruption="server" if direct else "client",
        truncation="server" if direct else "estimate" if turns else "client_ms",
        text_input=True,
        resumption="attach" if direct else "stateless" if turns else "replay",
        usage="tokens",
        client_leg="filtered" if direct else "none",  # no caller of a script has a line to it
        limits=frozenset({"duration", "idle", "turns", "tool_calls", "cost"}),
        formats=frozenset() if direct else frozenset(audio.name for audio in _AUDIO),
        dtmf=media == "bridged",
    )


class Scripted:
    """The provider, as a plugin, and what the test wants of it.

    Args:
        speed: How many times as fast as a person the agent speaks; audio is as long as that makes it.
        reword: What becomes of the words of a `say`, for a model that does not keep to them.
    """

    def __init__(self, *, speed: float = 1.0, reword: Callable[[str], str] = lambda text: text) -> None:
        self.speed = speed
        self.reword = reword
        self.refuse: AgentFieldError | None = None
        """Raised at whoever opens a session or makes a call."""
        self.echo: SessionReady | None = None
        """What the provider says it has; by default what was asked for."""
        self.calls: list[ScriptedCall] = []
        """All sessions at the provider, the newest last."""
        self.pauses: list[str] = []
        """What the first speech of calls that are not made yet is to stand still after, see `ScriptedCall.pause`."""
        self.on_disagree: Callable[[], None] = lambda: None
        """Called when `verify` has something to raise."""
        self._answers: deque[told.Answering] = deque()
        self._spoilt: deque[tuple[str, str]] = deque()
        self._wrong: list[str] = []
        self._made = asyncio.Event()
        self._numbers = itertools.count(1)
        self._pairs: dict[str, PairSpec] = {}
        self._url = f"scripted:{id(self):x}"
        _SCRIPTS[self._url] = self
        self._mine = self._manifest()

    # --- the plugin

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return the provider ``scripted`` and its pairs."""
        return self._mine

    def stand_in(self, registry: Registry) -> Registry:
        """Return what is installed with this provider in place of every other one.

        Providers keep their names, models, voices and prices and lose key and address; pairs keep what they can do. Pairs
        of ours that are not installed are there as well, with what a scripted pair can do. What somebody sees of such a
        pair says that it is scripted.
        """
        have = {spec.name for spec, _ in registry.pairs()}
        records = [self._replaced(registry, record) for record in registry.plugins]
        providers = {info.name for info in registry.providers()}
        absent = [pair for pair in FIRST_PARTY_PAIRS if "/".join(pair) not in have and pair[0] not in providers]
        mine = Manifest(
            api=PLUGIN_API,
            providers=(*self._mine.providers, *(self._provider(name) for name in sorted({p for p, _ in absent}))),
            pairs=(*self._mine.pairs, *(self._assumed(*pair) for pair in absent)),
        )
        records.append(PluginRecord(name="scripted", distribution="agentfield-core", state="ok", manifest=mine))
        return Registry(records)

    # --- what the model does

    def answers(self, *answers: told.Answering) -> None:
        """Let the model give these answers, one each time it is asked.

        Args:
            *answers: Words, a tool that it uses (`Use`), both (`Answer`), or a function that is given what the model was
                asked (`Asked`) and returns one of these.
        """
        self._answers.extend(answers)

    def spoil(self, after: str, code: str = "server_error") -> None:
        """Let the next speech that holds these words break off behind them, as failed with this code."""
        self._spoilt.append((after, code))

    # --- what came of it

    async def call(self, session_id: str | None = None) -> ScriptedCall:
        """Wait until there is a session at the provider and return it.

        Args:
            session_id: Whose; None for the newest.

        Raises:
            AssertionError: None was made in time.
        """
        try:
            async with asyncio.timeout(_CALL_WAIT):
                while not (mine := [c for c in self.calls if session_id in (None, c.config.session_id)]):
                    self._made.clear()
                    await self._made.wait()
        except TimeoutError:
            message = f"no call reached the scripted provider within {_CALL_WAIT:g} s"
            raise AssertionError(message) from None
        return mine[-1]

    def disagree(self, how: str) -> None:
        """Note that script and session do not go together; `verify` raises it."""
        self._wrong.append(how)
        self.on_disagree()

    def verify(self, *, done: bool = False) -> None:
        """Check that script and session went together.

        Args:
            done: The test is over: what the script still waits for is a mistake too.

        Raises:
            AssertionError: They did not; the message says how.
        """
        __tracebackhide__ = True
        wrong, self._wrong = self._wrong, []
        if done:
            wrong += self._left()
        if wrong:
            message = "The script and the session disagree:\n" + "\n".join(f"  - {each}" for each in wrong)
            raise AssertionError(message)

    # --- for its calls

    def next_answer(self, asked: told.Asked) -> told.Answering | None:
        """Return what the model answers now, None when the script is over (which is noted)."""
        if self._answers:
            return self._answers.popleft()
        what = f"after the caller said {asked.heard!r}" if not asked.results else f"about {dict(asked.results)!r}"
        self.disagree(f"the model was asked for an answer {what}, and the script has none: script.answers(...)")
        return None

    def spoiled(self, text: str) -> tuple[int, str] | None:
        """Return up to where a text is spoken before it breaks off, and the code of that."""
        if not self._spoilt or self._spoilt[0][0] not in text:
            return None
        after, code = self._spoilt.popleft()
        return text.index(after) + len(after), code

    def name(self, what: str) -> str:
        """Return a name that no other call has."""
        return f"{what}-{next(self._numbers)}"

    def length(self, text: str) -> int:
        """Return how long a text sounds, milliseconds."""
        return max(_MIN_MS, int(len(text) / CHARS_PER_SECOND / self.speed * 1000))

    def made(self, config: SessionConfig, audio: AudioFormat | None) -> ScriptedCall:
        """Make a session, or refuse it.

        Raises:
            AgentFieldError: `refuse` is set.
        """
        if self.refuse is not None:
            raise self.refuse
        call = ScriptedCall(self, config, self._pair_of(config), audio)
        call.tell(self.echo or SessionReady(model=config.model, voice=config.voice))
        self.calls.append(call)
        self._made.set()
        return call

    # --- inside

    def _left(self) -> list[str]:
        """Return, and forget, what the script still waits for."""
        left = [f"nothing was said that holds {after!r}, after which it was to break off" for after, _ in self._spoilt]
        for call in self.calls:
            left += (
                f"nothing was said that holds {after!r}, after which it was to stand still" for after in call.waiting
            )
        if self._answers:
            answers = ", ".join(repr(answer) for answer in self._answers)
            left.append(f"the model was not asked for what the script still has: {answers}")
        self._answers.clear()
        self._spoilt.clear()
        return left

    def _pair_of(self, config: SessionConfig) -> PairSpec:
        """Return the row that carries a session; over a bridged transport of a plugin it is made from the provider's own."""
        provider, transport = config.declaration.provider, config.declaration.transport
        mine = [pair for pair in self._pairs.values() if pair.provider == provider]
        exactly = [pair for pair in mine if pair.transport == transport]
        return (exactly or [pair for pair in mine if pair.media == "bridged"])[0]

    def _manifest(self) -> Manifest:
        pairs = tuple(self._row(info.name, info.media) for info in CORE_TRANSPORTS)
        return Manifest(api=PLUGIN_API, providers=(self._provider("scripted"),), pairs=pairs)

    def _row(self, transport: str, media: Media = "bridged") -> PairSpec:
        """Return a pair of the provider ``scripted``."""
        pair = PairSpec(
            provider="scripted",
            transport=transport,
            factory=f"{_MODULE}:{_FACTORIES[media]}",
            media=media,
            capabilities=_capabilities(media),
            notes="For tests: no network, no engine.",
        )
        return self._pairs.setdefault(pair.name, pair)

    def _provider(self, name: str) -> ProviderInfo:
        names = Names(default="scripted-1")
        return ProviderInfo(name=name, title="Scripted", default_url=self._url, models=names, voices=names)

    def _assumed(self, provider: str, transport: str) -> PairSpec:
        media = next(info.media for info in CORE_TRANSPORTS if info.name == transport)
        notes = f"scripted for {provider}/{transport}, which is not installed; what it can do is assumed"
        pair = dataclasses.replace(self._row(transport, media), provider=provider, notes=notes)
        return self._pairs.setdefault(pair.name, pair)

    def _replaced(self, registry: Registry, record: PluginRecord) -> PluginRecord:
        if record.manifest is None:
            return record
        providers = tuple(
            dataclasses.replace(info, key_setting=None, url_setting=None, default_url=self._url)
            for info in record.manifest.providers
        )
        # of a pair that two plugins claim, the one that was preferred
        rows = {spec.name for spec, owner in registry.pairs() if owner is record}
        pairs = tuple(self._in_place_of(pair) for pair in record.manifest.pairs if pair.name in rows)
        manifest = dataclasses.replace(record.manifest, providers=providers, pairs=pairs)
        return dataclasses.replace(record, manifest=manifest)

    def _in_place_of(self, pair: PairSpec) -> PairSpec:
        made = dataclasses.replace(
            pair, factory=f"{_MODULE}:{_FACTORIES[pair.media]}", requires=(), notes=f"scripted for {pair.name}"
        )
        return self._pairs.setdefault(made.name, made)


_SCRIPTS: WeakValueDictionary[str, Scripted] = WeakValueDictionary()
"""By the address that a script gives its provider: a factory is named in words, and knows its script by that only."""


class _Direct:
    """A `DirectAdapter` whose calls have no peer."""

    def __init__(self, script: Scripted) -> None:
        self._script = script
        self._waiting: dict[str, ScriptedCall] = {}

    async def negotiate(self, offer: str, config: SessionConfig) -> Answer:  # noqa: ARG002 - there is no peer to reach
        call = self._script.made(config, None)
        name = f"call-{len(self._script.calls)}"
        self._waiting[name] = call
        return Answer(sdp=ANSWER_SDP, ref={"call_id": name})

    async def attach(self, ref: CallRef, config: SessionConfig) -> ScriptedCall:
        call = self._waiting.get(ref["call_id"])
        if call is None:
            raise NotFound("the scripted provider has no such call")
        if call.ended:
            call = self._waiting[ref["call_id"]] = self._script.made(config, None)
        return call

    async def hang_up(self, ref: CallRef) -> None:
        call = self._waiting.pop(ref["call_id"], None)
        if call is not None:
            call.hangs_up()


class _Carried:
    """A `BridgedAdapter`, for streams and for recorded turns."""

    def __init__(self, script: Scripted) -> None:
        self._script = script

    @property
    def formats(self) -> Sequence[AudioFormat]:
        return _AUDIO

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ScriptedCall:
        return self._script.made(config, audio)


def _script_of(runtime: AdapterRuntime) -> Scripted:
    script = _SCRIPTS.get(runtime.base_url)
    if script is None:
        raise ProviderError("the script of this provider is gone", hint="keep the Scripted object for the whole test")
    return script


@asynccontextmanager
async def direct(runtime: AdapterRuntime) -> AsyncIterator[_Direct]:
    """Enter the adapter of a script for media that does not pass through the control plane."""
    yield _Direct(_script_of(runtime))


@asynccontextmanager
async def carried(runtime: AdapterRuntime) -> AsyncIterator[_Carried]:
    """Enter the adapter of a script for media that the control plane carries."""
    yield _Carried(_script_of(runtime))
