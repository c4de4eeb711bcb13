"""Records of a manifest: providers, transports, pairs and their capabilities. Standard library only: manifests are light.

This module has no ``from __future__ import annotations``: values are checked against the annotations as types
(`agentfield.plugins.manifest.checks`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "PLUGIN_API",
    "Capabilities",
    "Catalog",
    "Manifest",
    "ModelPrices",
    "ModelSpec",
    "Need",
    "PairSpec",
    "ProviderSpec",
    "RouteSpec",
    "TransportSpec",
]

PLUGIN_API = (2, 2)
"""Version of the plugin API. A plugin is compatible if its major version is equal and its minor version not greater."""

Media = Literal["direct", "bridged", "turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Names of models or voices. Only a `closed` catalog is complete; other names are passed to the provider, which decides."""

    known: tuple[str, ...] = ()
    """Names that are known."""
    closed: bool = False
    """Whether no other name exists."""
    default: str | None = None
    """The name of a session that names none; None if there is no default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrices:
    """Prices of a model in US dollars per million tokens; None has no separate price."""

    model: str
    """Name of the model as sessions request it."""
    input_text: float | None = None
    """Text that the model reads."""
    input_audio: float | None = None
    """Audio that it hears."""
    input_image: float | None = None
    """Images that it sees."""
    input_video: float | None = None
    """Video that it sees."""
    cached: float | None = None
    """Cached input; these tokens are also counted as input."""
    output_text: float | None = None
    """Text that it writes."""
    output_audio: float | None = None
    """Audio that it speaks."""
    thinking: float | None = None
    """Output that is neither spoken nor shown; None: as `output_text`."""
    minute: float | None = None
    """US dollars per minute of audio, where the provider bills by time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The differences of one model from what the provider and its pairs declare; None is no difference."""

    model: str
    """Name of the model as sessions request it."""
    modalities: frozenset[Literal["audio", "text"]] | None = None
    """The forms of its answers, of those that the pair has."""
    voices: Catalog | None = None
    """The voices that it speaks with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """A provider: a service that can hold a conversation."""

    name: str
    """The name in `provider=`."""
    title: str
    """The name in messages for people."""
    key_setting: str | None = None
    """Environment variable of the provider's key, None if it takes none."""
    key_required: bool = True
    """Whether sessions need the key."""
    url_setting: str | None = None
    """Environment variable that overrides `default_url`."""
    default_url: str = ""
    """Address of the service, `http(s)` or `ws(s)`; "" if `url_setting` must be set."""
    models: Catalog = field(default_factory=Catalog)
    """Models of the conversation."""
    voices: Catalog = field(default_factory=Catalog)
    """Voices of every model that `model_specs` does not list."""
    model_specs: tuple[ModelSpec, ...] = ()
    """Models that differ from the others in their modalities or voices."""
    prices: tuple[ModelPrices, ...] = ()
    """Published prices, which users can override."""
    concurrency: int | None = None
    """Default limit of concurrent sessions per key; None is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """A route of a transport, below ``/api/v1/transports/NAME``; `access` is required."""

    method: Literal["GET", "POST"]
    """HTTP method; a WebSocket is opened with GET."""
    path: str
    """Starts with a slash; parts may be placeholders such as ``{target}``. A `session` route contains ``{session_id}``."""
    handler: str
    """Method of the transport that serves it (`agentfield.realtime.transport.Transport`)."""
    access: Literal["operator", "session", "verified"]
    """Required credential: a key with the scope `operator`; such a key, the key that started the session, or its browser token;
    or what the transport's `verify` accepts."""
    summary: str
    """The purpose of the route in a few words, for the OpenAPI document."""
    socket: bool = False
    """True for a WebSocket, which is exempt from the deadline of requests."""
    max_body: int = 64 * 1024
    """Maximum size of a request body in bytes."""
    at_once: int = 100
    """Maximum concurrent requests or sockets; more are refused with 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSpec:
    """A transport: a way for a caller to reach a provider.

    A plugin's transport with `bridged` media works with each provider that declares a bridged pair: the registry derives
    the pair from both (`agentfield.plugins.registry.bridged_pairs`).
    """

    name: str
    """The name in `transport=`, and in the paths of its routes."""
    client: Literal["browser", "server"]
    """The end of the call that is not the provider: a page (`browser`), or a program or telephone network (`server`)."""
    media: Media
    """How the audio passes: between the caller and the provider (`direct`), through the control plane (`bridged`), or as recorded turns (`turns`). A plugin's transport is `bridged`."""
    summary: str
    """The transport in a few words, for `af adapters`."""
    factory: str | None = None
    """``"module:attribute"`` of a factory that takes a `TransportRuntime` and returns an async context manager of a
    `Transport`; None for the transports of agentfield-core, which the control plane serves itself."""
    routes: tuple[RouteSpec, ...] = ()
    """Routes by which callers arrive."""
    formats: frozenset[str] = frozenset()
    """Audio formats of its callers, such as ``pcmu/8000``; required for `bridged` media."""
    text_input: bool = False
    """Whether callers can send text."""
    commits: bool = False
    """Whether callers can commit their turn (push to talk)."""
    dtmf: bool = False
    """Whether callers can press keys of a telephone."""
    settings: tuple[str, ...] = ()
    """Environment variables that it reads; all are treated as secrets."""
    requires: tuple[str, ...] = ()
    """Modules that it needs; checked without importing them."""
    extra: str | None = None
    """Extra of the distribution that installs `requires`."""
    notes: str = ""
    """Remarks for users, shown in the matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Capabilities of a pair; a default value means that it lacks the capability."""

    say: Literal["exact", "best_effort", "none"] = "none"
    uninterruptible: bool = False
    """Whether a speech can be spoken to its end while the caller speaks: while `UpdateCommand.interruptible` is False, the
    provider neither stops its speech nor answers by itself."""
    floors: frozenset[Literal["handler", "model"]] = frozenset()
    turn_detection: frozenset[Literal["server_vad", "semantic_vad", "manual"]] = frozenset()
    modalities: frozenset[Literal["audio", "text"]] = frozenset()
    tools: Literal["none", "sync", "async"] = "none"
    caller_transcript: Literal["none", "final", "partial"] = "none"
    agent_transcript: Literal["none", "final", "streaming"] = "none"
    transcription: Literal["model", "own"] = "model"
    """Whether a model transcribes the caller that a session can name (`model`), or the provider does it itself, without a name
    (`own`): then there is no `default_transcription`, and a declaration that names a model is refused."""
    default_transcription: str | None = None
    """Model that transcribes the caller if the declaration names none."""
    interruption: Literal["none", "server", "client"] = "none"
    delays_interruption: bool = False
    """Whether a provider that stops its speech by itself (`interruption="server"`) lets it go on for the
    `SessionDeclaration.interrupt_after_ms` of a session: it is told that time, or told to leave the interruption to the control
    plane. Without it such a session is refused. With `interruption="client"` the control plane always waits that long."""
    truncation: Literal["none", "server", "client_ms", "estimate"] = "none"
    answers_after: frozenset[Literal["turn", "commit", "tool_result"]] = frozenset({"turn"})
    """After what the model answers by itself on the model's floor: a turn whose end the provider detected (`turn`),
    `CommitTurnCommand` (`commit`), the results of all tool calls of a reply (`tool_result`). After everything else, and on the
    handler's floor always, the control plane asks with `ReplyCommand`."""
    begins_turns: bool = False
    """Whether a turn of push to talk begins with `BeginTurnCommand`."""
    text_input: bool = False
    resumption: Literal["none", "attach", "replay", "handle", "stateless"] = "none"
    """Continuation of a conversation after a lost connection or a restart. `attach`: the same call is attached to. `replay`: a new
    session receives the conversation so far as text. `handle`: a session is resumed by the handle that the provider gave last
    (`SessionResumable`, `ResumableAdapter`), without one as with `replay`. `stateless`: the provider keeps nothing, so the adapter
    sends the whole conversation with each request for an answer; it learns that conversation as with `replay`, and on recorded
    turns a lost connection does not end the session."""
    usage: Literal["none", "tokens", "cost"] = "none"
    max_duration: float | None = None
    """Seconds after which the provider ends a session, None if it does not."""
    client_leg: Literal["none", "filtered", "watched", "open"] = "none"
    """What the caller's own connection to the provider can change on `direct` media: there is no connection (`none`), the
    provider blocks all changes (`filtered`), the control plane sees and reverts them (`watched`), or does not (`open`)."""
    routing: Literal["fixed", "pinned"] = "fixed"
    limits: frozenset[Literal["duration", "idle", "turns", "tool_calls", "cost"]] = frozenset()
    """Limits of a session that can be enforced."""
    formats: frozenset[str] = frozenset()
    """Audio formats of the provider without conversion, such as ``pcm16/24000``; empty on `direct` media, which negotiates."""
    output_formats: frozenset[str] = frozenset()
    """Formats of its replies where they differ from `formats`, which are then those of the caller's audio (`SeparateOutput`)."""
    echoes: frozenset[Literal["model", "voice"]] = frozenset({"model", "voice"})
    """Values that `SessionReady` repeats. One that is never repeated is recorded as unverified, without a warning in each call."""
    dtmf: bool = False
    """Whether telephone keys reach the handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec:
    """A provider over a transport, and its adapter: one row of the matrix."""

    provider: str
    """Name of a provider that this or another installed plugin declares."""
    transport: str
    """Name of a transport of agentfield-core or of an installed plugin."""
    factory: str
    """``"module:attribute"`` of a factory that takes an `AdapterRuntime` and returns an async context manager of the adapter."""
    media: Media
    """The media of the transport."""
    capabilities: Capabilities
    """The capabilities of the pair."""
    options: str | None = None
    """``"module:attribute"`` of the pydantic model of `options=`; None if there are no options."""
    requires: tuple[str, ...] = ()
    """Modules that it needs; checked without importing them."""
    extra: str | None = None
    """Extra of the distribution that installs `requires`."""
    notes: str = ""
    """Remarks for users, shown in the matrix."""
    bridged_from: str | None = None
    """The declared pair that this one is derived from, for a provider and a transport of two plugins; set by the registry."""

    @property
    def name(self) -> str:
        """The pair as written: ``provider/transport``."""
        return f"{self.provider}/{self.transport}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The declarations of a plugin."""

    api: tuple[int, int]
    """The lowest plugin API that it needs, as numbers: the installed one must have the same first and at least this second number."""
    providers: tuple[ProviderSpec, ...] = ()
    """Providers, each of which pairs of this or another plugin may use."""
    transports: tuple[TransportSpec, ...] = ()
    """Transports with a factory of this plugin."""
    pairs: tuple[PairSpec, ...] = ()
    """Providers over transports, each with its adapter."""
    settings: tuple[str, ...] = ()
    """Environment variables that its hooks read (`HookRuntime.setting`); all are treated as secrets."""


@dataclass(frozen=True, slots=True)
class Need:
    """A capability that a session's declaration needs."""

    capability: str
    """Name of a field of `Capabilities`."""
    accepts: frozenset[object]
    """Sufficient values; for a set, the values that it must contain."""
    because: str
    """The part of the declaration that needs it, such as ``tools=[...]``."""

    def met_by(self, capabilities: Capabilities) -> bool:
        """Return whether a pair with these capabilities meets the need."""
        value = getattr(capabilities, self.capability)
        if self.capability == "max_duration":
            return value is None or all(isinstance(least, int | float) and value >= least for least in self.accepts)
        if self.capability == "delays_interruption":
            return value in self.accepts or capabilities.interruption != "server"  # otherwise nobody else interrupts
        if isinstance(value, frozenset):
            return self.accepts <= value
        return value in self.accepts

    def describe(self) -> str:
        """Return the need as text."""
        joined = " and " if isinstance(getattr(Capabilities(), self.capability), frozenset) else " or "
        return f"{self.capability}: {joined.join(_sorted(self.accepts))} (for {self.because})"

    def refusal(self, capabilities: Capabilities) -> str:
        """Return why a pair with these capabilities does not meet the need, as text."""
        value = getattr(capabilities, self.capability)
        if isinstance(value, frozenset):
            have, missing = ", ".join(_sorted(value)) or "none", ", ".join(_sorted(self.accepts - value))
            return f"{self.capability} has {have}, not {missing} (for {self.because})"
        return f"{self.capability} is {value}, not {' or '.join(_sorted(self.accepts))} (for {self.because})"


def _sorted(values: Iterable[object]) -> list[str]:
    return sorted(str(value) for value in values)
