"""The records of a manifest: providers, transports, pairs and what each pair can do. Standard library only: manifests must be light.

Annotations are types here, not text: what a plugin hands over is compared with them (`agentfield.plugins.checks`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "PLUGIN_API",
    "Capabilities",
    "Manifest",
    "Names",
    "Need",
    "PairSpec",
    "Prices",
    "ProviderInfo",
    "RouteInfo",
    "TransportInfo",
]

PLUGIN_API = (1, 0)
"""Version of the plugin contract: a plugin fits when its major is equal and its minor not greater."""

Media = Literal["direct", "bridged", "turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of models or voices: `closed` lists are complete, others are passed on and the provider judges."""

    known: tuple[str, ...] = ()
    closed: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a model costs, US dollars for a million tokens; what is None has no price of its own."""

    model: str
    """Name of the model, as it is asked for."""
    input_text: float | None = None
    input_audio: float | None = None
    cached: float | None = None
    """Input that the provider had seen before; such tokens are also counted as input."""
    output_text: float | None = None
    output_audio: float | None = None
    minute: float | None = None
    """US dollars for a minute of audio, where that is what is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderInfo:
    """A service that can hold a conversation."""

    name: str
    title: str
    key_setting: str | None = None
    """Environment variable of the provider's key, None when it takes none."""
    key_required: bool = True
    """Whether nothing works without the key."""
    url_setting: str | None = None
    """Environment variable that overrides where the provider is."""
    default_url: str = ""
    models: Names = field(default_factory=Names)
    voices: Names = field(default_factory=Names)
    prices: tuple[Prices, ...] = ()
    """Published prices; users can override them."""
    concurrency: int | None = None
    """How many sessions one key may have at once by default; None does not limit them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInfo:
    """A route that a transport serves, below ``/api/v1/transports/NAME``; a route without access cannot be written."""

    method: Literal["GET", "POST"]
    path: str
    """Begins with a slash; parts may be placeholders such as ``{target}``. A `session` route has ``{session_id}``."""
    handler: str
    """Name of the method of the transport that serves it (`agentfield.realtime.transport.Transport`)."""
    access: Literal["operator", "session", "verified"]
    """Who may use it: the operator's key; that or the session's browser token; whoever the transport's `verify` accepts."""
    summary: str
    socket: bool = False
    """True for a WebSocket, which outlives the deadline of ordinary requests."""
    max_body: int = 64 * 1024
    """Bytes that the body of a request may have."""
    at_once: int = 100
    """How many requests or sockets are served at a time; more are refused with 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportInfo:
    """A way for a caller to reach a provider.

    One whose media is `bridged` meets every provider that declares a bridged pair: the registry makes the row from what
    both declare, see `agentfield.plugins.bridging`.
    """

    name: str
    client: Literal["browser", "server"]
    media: Media
    summary: str
    factory: str | None = None
    """``"module:attribute"`` of an async context manager factory that takes a `TransportRuntime` and yields a `Transport`;
    None for the transports of agentfield-core, which the control plane serves itself."""
    routes: tuple[RouteInfo, ...] = ()
    formats: frozenset[str] = frozenset()
    """Audio that its callers speak and hear, such as ``pcmu/8000``; needed where the media is `bridged`."""
    text_input: bool = False
    """Whether its callers can type."""
    commits: bool = False
    """Whether its callers can say that their turn is over (push to talk)."""
    dtmf: bool = False
    """Whether its callers have the keys of a telephone."""
    settings: tuple[str, ...] = ()
    """Environment variables that it reads; all are kept like secrets."""
    requires: tuple[str, ...] = ()
    """Modules that must be importable, checked without importing them."""
    extra: str | None = None
    """The extra of the distribution that brings `requires`."""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a pair can do; a field left at its default means: cannot."""

    say: Literal["exact", "best_effort", "none"] = "none"
    floors: frozenset[Literal["handler", "model"]] = frozenset()
    turn_detection: frozenset[Literal["server_vad", "semantic_vad", "manual"]] = frozenset()
    modalities: frozenset[Literal["audio", "text"]] = frozenset()
    tools: Literal["none", "sync", "async"] = "none"
    caller_transcript: Literal["none", "final", "partial"] = "none"
    agent_transcript: Literal["none", "final", "streaming"] = "none"
    default_transcription: str | None = None
    """The model that transcribes the caller when the declaration names none."""
    interruption: Literal["none", "server", "client"] = "none"
    truncation: Literal["none", "server", "client_ms", "estimate"] = "none"
    text_input: bool = False
    resumption: Literal["none", "attach", "replay", "stateless"] = "none"
    usage: Literal["none", "tokens", "cost"] = "none"
    max_duration: float | None = None
    """Seconds after which the provider ends a session, None when it does not."""
    client_leg: Literal["none", "filtered", "watched", "open"] = "none"
    """What the caller's own line to the provider, on `direct` media, can do to the session: nothing since there is none, or
    since the provider lets it change nothing (`filtered`); or anything, seen and undone by us (`watched`), or not (`open`)."""
    routing: Literal["fixed", "pinned"] = "fixed"
    limits: frozenset[Literal["duration", "idle", "turns", "tool_calls", "cost"]] = frozenset()
    """Which limits of a session can be enforced on this pair."""
    formats: frozenset[str] = frozenset()
    """Audio formats that the provider takes and gives without conversion, such as ``pcm16/24000``; negotiated on `direct`."""
    dtmf: bool = False
    """Whether keys of a telephone reach the handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec:
    """One row of the matrix: a provider over a transport, and the code for it."""

    provider: str
    transport: str
    factory: str
    """``"module:attribute"`` of an async context manager factory that takes an `AdapterRuntime` and yields the adapter."""
    media: Media
    capabilities: Capabilities
    options: str | None = None
    """``"module:attribute"`` of a pydantic model for `options=`; None when there are no options."""
    requires: tuple[str, ...] = ()
    """Modules that must be importable, checked without importing them."""
    extra: str | None = None
    """The extra of the distribution that brings `requires`."""
    notes: str = ""
    bridged_from: str | None = None
    """The declared pair that this row was made from, where a provider and a transport of two plugins meet; never declared."""

    @property
    def name(self) -> str:
        """The pair as people write it: ``provider/transport``."""
        return f"{self.provider}/{self.transport}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a plugin brings."""

    api: tuple[int, int]
    providers: tuple[ProviderInfo, ...] = ()
    transports: tuple[TransportInfo, ...] = ()
    pairs: tuple[PairSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """Something a session's declaration asks of a pair."""

    capability: str
    """Name of a field of `Capabilities`."""
    accepts: frozenset[object]
    """Values that do; for a capability that is a set, what it must hold."""
    because: str
    """The part of the declaration that asks, such as ``tools=[...]``."""

    def met_by(self, capabilities: Capabilities) -> bool:
        """Tell whether a pair with these capabilities can do it."""
        value = getattr(capabilities, self.capability)
        if self.capability == "max_duration":
            return value is None or all(isinstance(least, int | float) and value >= least for least in self.accepts)
        if isinstance(value, frozenset):
            return self.accepts <= value
        return value in self.accepts

    def describe(self) -> str:
        """Return the need in words."""
        joined = " and " if isinstance(getattr(Capabilities(), self.capability), frozenset) else " or "
        return f"{self.capability}: {joined.join(_sorted(self.accepts))} (for {self.because})"

    def refusal(self, capabilities: Capabilities) -> str:
        """Return why a pair with these capabilities does not meet the need."""
        value = getattr(capabilities, self.capability)
        if isinstance(value, frozenset):
            have, missing = ", ".join(_sorted(value)) or "none", ", ".join(_sorted(self.accepts - value))
            return f"{self.capability} has {have}, not {missing} (for {self.because})"
        return f"{self.capability} is {value}, not {' or '.join(_sorted(self.accepts))} (for {self.because})"


def _sorted(values: Iterable[object]) -> list[str]:
    return sorted(str(value) for value in values)
