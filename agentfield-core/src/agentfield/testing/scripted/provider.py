"""The scripted provider: a plugin object whose model and callers say what a test tells them to."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from agentfield.errors import AgentFieldError
from agentfield.plugins import (
    PLUGIN_API,
    Capabilities,
    Catalog,
    Manifest,
    PairSpec,
    PluginRecord,
    ProviderSpec,
    Registry,
    hookimpl,
)
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS
from agentfield.plugins.manifest.spec import Media
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import SessionReady
from agentfield.testing.scripted.answers import AnswerLike, ModelRequest
from agentfield.testing.scripted.call import ScriptedCall

__all__ = ["AUDIO_FORMATS", "CHARS_PER_SECOND", "ScriptedProvider", "provider_at"]

CHARS_PER_SECOND: Final = 15.0
"""Speed of a person's speech; durations of scripted speech follow from it."""
AUDIO_FORMATS: Final = (AudioFormat("pcm16", 24_000), AudioFormat("pcmu", 8000), AudioFormat("pcma", 8000))
"""Formats of the bridged pairs."""

_MIN_MS: Final = 20
_CALL_TIMEOUT: Final = 10.0
_ADAPTERS: Final = "agentfield.testing.scripted.adapters"
_FACTORIES: Final = {"direct": "direct", "bridged": "bridged", "turns": "bridged"}


def _capabilities(media: Media) -> Capabilities:
    """Return the capabilities of a scripted pair: everything that its media allows."""
    direct, turns = media == "direct", media == "turns"
    return Capabilities(
        say="best_effort",
        uninterruptible=True,
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"manual"}) if turns else frozenset({"server_vad", "semantic_vad", "manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="async",
        caller_transcript="final",
        agent_transcript="final",
        default_transcription="scripted",
        interruption="server" if direct else "client",
        delays_interruption=direct,
        truncation="server" if direct else "estimate" if turns else "client_ms",
        text_input=True,
        resumption="attach" if direct else "stateless" if turns else "replay",
        usage="tokens",
        client_leg="filtered" if direct else "none",  # the scripted caller has no connection to the provider
        limits=frozenset({"duration", "idle", "turns", "tool_calls", "cost"}),
        formats=frozenset() if direct else frozenset(audio.name for audio in AUDIO_FORMATS),
        dtmf=media == "bridged",
    )


class ScriptedProvider:
    """A provider without a network or engine, as a plugin object.

    ``Registry.of([ScriptedProvider()])`` has the provider ``scripted`` over every transport. `replace_providers` puts it
    in the place of all other providers, so that an agent that declares them runs unchanged. Each session at the provider
    is a `ScriptedCall`, which keeps the commands that it was given.

    Args:
        speed: Speed of the agent's speech, as a multiple of a person's; durations of audio follow from it.
        reword: Maps the text of a `say` to the text that is spoken, to play a model that rewords.
    """

    def __init__(self, *, speed: float = 1.0, reword: Callable[[str], str] = lambda text: text) -> None:
        self.speed = speed
        self.reword = reword
        self.refusal: AgentFieldError | None = None
        """Raised when a session is opened or a call negotiated."""
        self.ready_event: SessionReady | None = None
        """The `SessionReady` event of the provider; by default it confirms the requested model and voice."""
        self.calls: list[ScriptedCall] = []
        """All sessions at the provider, the newest last."""
        self.initial_pauses: list[str] = []
        """Pauses of calls that are not open yet, see `ScriptedCall.pause_after`."""
        self.on_mismatch: Callable[[], None] = lambda: None
        """Called when `verify` has something to raise."""
        self._answers: deque[AnswerLike] = deque()
        self._break_offs: deque[tuple[str, str]] = deque()
        self._mismatches: list[str] = []
        self._call_opened = asyncio.Event()
        self._numbers = itertools.count(1)
        self._pairs: dict[str, PairSpec] = {}
        self._url = f"scripted:{id(self):x}"
        _PROVIDERS[self._url] = self
        self._own_manifest = self._make_manifest()

    # --- the plugin

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return the provider ``scripted`` and its pairs."""
        return self._own_manifest

    def replace_providers(self, registry: Registry) -> Registry:
        """Return a registry in which this provider replaces every other one.

        Providers keep their names, models, voices and prices, and lose their key and address. Pairs keep their
        capabilities. First-party pairs that are not installed are added with the capabilities of a scripted pair. The notes
        of each pair say that it is scripted.
        """
        existing = {spec.name for spec, _ in registry.pairs()}
        records = [self._replace_record(registry, record) for record in registry.plugins]
        providers = {info.name for info in registry.providers()}
        absent = [pair for pair in FIRST_PARTY_PAIRS if "/".join(pair) not in existing and pair[0] not in providers]
        manifest = Manifest(
            api=PLUGIN_API,
            providers=(
                *self._own_manifest.providers,
                *(self._provider_spec(name) for name in sorted({provider for provider, _ in absent})),
            ),
            pairs=(*self._own_manifest.pairs, *(self._assumed_pair(*pair) for pair in absent)),
        )
        records.append(PluginRecord(name="scripted", distribution="agentfield-core", state="ok", manifest=manifest))
        return Registry(records)

    # --- the script

    def answers(self, *answers: AnswerLike) -> None:
        """Queue answers of the model; each is used once.

        Args:
            *answers: A text, a `ToolUse`, a `ScriptedAnswer` with both, or a function that takes a `ModelRequest` and
                returns one of these.
        """
        self._answers.extend(answers)

    def break_off(self, after: str, code: str = "server_error") -> None:
        """Let the next speech that contains `after` end there, as failed with `code`."""
        self._break_offs.append((after, code))

    # --- what the test sees

    async def call(self, session_id: str | None = None) -> ScriptedCall:
        """Wait for a session at the provider and return it.

        Args:
            session_id: The session; None for the newest.

        Raises:
            AssertionError: None was opened within 10 s.
        """
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                while not (found := [c for c in self.calls if session_id in (None, c.config.session_id)]):
                    self._call_opened.clear()
                    await self._call_opened.wait()
        except TimeoutError:
            message = f"no call reached the scripted provider within {_CALL_TIMEOUT:g} s"
            raise AssertionError(message) from None
        return found[-1]

    def report_mismatch(self, message: str) -> None:
        """Record that script and session do not match; `verify` raises it."""
        self._mismatches.append(message)
        self.on_mismatch()

    def verify(self, *, done: bool = False) -> None:
        """Check that script and session matched.

        Args:
            done: True at the end of the test: unused parts of the script are errors too.

        Raises:
            AssertionError: They did not match; the message lists all mismatches.
        """
        __tracebackhide__ = True
        mismatches, self._mismatches = self._mismatches, []
        if done:
            mismatches += self._take_unused()
        if mismatches:
            message = "The script and the session disagree:\n" + "\n".join(f"  - {each}" for each in mismatches)
            raise AssertionError(message)

    # --- called by ScriptedCall and the adapters

    def next_answer(self, request: ModelRequest) -> AnswerLike | None:
        """Return the next queued answer; report a mismatch and return None when there is none."""
        if self._answers:
            return self._answers.popleft()
        what = f"after the caller said {request.heard!r}" if not request.results else f"about {dict(request.results)!r}"
        self.report_mismatch(f"the model was asked for an answer {what}, and the script has none: script.answers(...)")
        return None

    def take_break_off(self, text: str) -> tuple[int, str] | None:
        """Return the length at which a speech breaks off and its error code, None when it does not break off."""
        if not self._break_offs or self._break_offs[0][0] not in text:
            return None
        after, code = self._break_offs.popleft()
        return text.index(after) + len(after), code

    def new_id(self, prefix: str) -> str:
        """Return an id that no other call of this provider has."""
        return f"{prefix}-{next(self._numbers)}"

    def duration_ms(self, text: str) -> int:
        """Return the duration of a text when spoken, in milliseconds."""
        return max(_MIN_MS, int(len(text) / CHARS_PER_SECOND / self.speed * 1000))

    def open_call(self, config: SessionConfig, audio: AudioFormat | None) -> ScriptedCall:
        """Open a session.

        Args:
            config: Its frozen configuration.
            audio: The format of both directions, None where the media does not pass through the control plane.

        Raises:
            AgentFieldError: `refusal` is set.
        """
        if self.refusal is not None:
            raise self.refusal
        call = ScriptedCall(self, config, self._pair_for(config), audio)
        call.emit(self.ready_event or SessionReady(model=config.model, voice=config.voice))
        self.calls.append(call)
        self._call_opened.set()
        return call

    # --- inside

    def _take_unused(self) -> list[str]:
        """Return the unused parts of the script as messages, and clear them."""
        unused = [
            f"nothing was said that holds {after!r}, after which it was to break off" for after, _ in self._break_offs
        ]
        for call in self.calls:
            unused += (
                f"nothing was said that holds {after!r}, after which it was to pause" for after in call.pending_pauses
            )
        if self._answers:
            answers = ", ".join(repr(answer) for answer in self._answers)
            unused.append(f"the model was not asked for what the script still has: {answers}")
        self._answers.clear()
        self._break_offs.clear()
        return unused

    def _pair_for(self, config: SessionConfig) -> PairSpec:
        """Return the pair of a session; over a plugin's bridged transport it is derived from the provider's own pair."""
        provider, transport = config.declaration.provider, config.declaration.transport
        candidates = [pair for pair in self._pairs.values() if pair.provider == provider]
        exact = [pair for pair in candidates if pair.transport == transport]
        return (exact or [pair for pair in candidates if pair.media == "bridged"])[0]

    def _make_manifest(self) -> Manifest:
        pairs = tuple(self._scripted_pair(spec.name, spec.media) for spec in CORE_TRANSPORTS)
        return Manifest(api=PLUGIN_API, providers=(self._provider_spec("scripted"),), pairs=pairs)

    def _scripted_pair(self, transport: str, media: Media = "bridged") -> PairSpec:
        """Return a pair of the provider ``scripted``."""
        pair = PairSpec(
            provider="scripted",
            transport=transport,
            factory=f"{_ADAPTERS}:{_FACTORIES[media]}",
            media=media,
            capabilities=_capabilities(media),
            notes="For tests: no network, no engine.",
        )
        return self._pairs.setdefault(pair.name, pair)

    def _provider_spec(self, name: str) -> ProviderSpec:
        catalog = Catalog(default="scripted-1")
        return ProviderSpec(name=name, title="Scripted", default_url=self._url, models=catalog, voices=catalog)

    def _assumed_pair(self, provider: str, transport: str) -> PairSpec:
        media = next(spec.media for spec in CORE_TRANSPORTS if spec.name == transport)
        notes = f"scripted for {provider}/{transport}, which is not installed; what it can do is assumed"
        pair = dataclasses.replace(self._scripted_pair(transport, media), provider=provider, notes=notes)
        return self._pairs.setdefault(pair.name, pair)

    def _replace_record(self, registry: Registry, record: PluginRecord) -> PluginRecord:
        if record.manifest is None:
            return record
        providers = tuple(
            dataclasses.replace(spec, key_setting=None, url_setting=None, default_url=self._url)
            for spec in record.manifest.providers
        )
        # of a pair that two plugins claim, only the preferred one
        owned = {spec.name for spec, owner in registry.pairs() if owner is record}
        pairs = tuple(self._replace_pair(pair) for pair in record.manifest.pairs if pair.name in owned)
        manifest = dataclasses.replace(record.manifest, providers=providers, pairs=pairs)
        return dataclasses.replace(record, manifest=manifest)

    def _replace_pair(self, pair: PairSpec) -> PairSpec:
        replaced = dataclasses.replace(
            pair, factory=f"{_ADAPTERS}:{_FACTORIES[pair.media]}", requires=(), notes=f"scripted for {pair.name}"
        )
        return self._pairs.setdefault(replaced.name, replaced)


_PROVIDERS: WeakValueDictionary[str, ScriptedProvider] = WeakValueDictionary()
"""Living providers by their base URL."""


def provider_at(base_url: str) -> ScriptedProvider | None:
    """Return the provider with a base URL, None when it no longer exists."""
    return _PROVIDERS.get(base_url)
