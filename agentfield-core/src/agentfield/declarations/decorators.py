"""The decorators of an agent; each name may be declared once, and only before the agent is linked."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from agentfield.arguments import checked_arguments
from agentfield.declarations.reasoner import OnInterrupt, Reasoner, RetryOn
from agentfield.declarations.session_declaration import (
    DeclaredSession,
    Handler,
    check_handler,
    check_pair,
    declare_session,
)
from agentfield.errors import Conflict, InvalidInput
from agentfield.realtime.config import Floor, Limits, Say, SemanticVad, ServerVad
from agentfield.wire.node_declarations import MAX_TAG, MAX_TAGS, InstalledPair

if TYPE_CHECKING:
    from agentfield.plugins.registry.registry import Registry

__all__ = ["DEFAULT", "Decorators", "Default"]

F = TypeVar("F", bound=Callable[..., Any])
H = TypeVar("H", bound=Handler)


class Default(enum.Enum):
    """The type of `DEFAULT`."""

    DEFAULT = "default"


DEFAULT: Final = Default.DEFAULT
"""The default of the provider/transport pair."""


class Decorators:
    """The reasoners and sessions of an agent, and the decorators that declare them.

    Args:
        node_id: The agent's name; targets are ``node_id.name``.
        registry: The plugins to check sessions against; by default the installed ones.
    """

    def __init__(self, node_id: str, *, registry: Registry | None) -> None:
        self.node_id = node_id
        self._registry = registry
        self._reasoners: dict[str, Reasoner] = {}
        self._sessions: dict[str, DeclaredSession] = {}

    @property
    def reasoners(self) -> Mapping[str, Reasoner]:
        """The declared reasoners by name."""
        return dict(self._reasoners)

    @property
    def sessions(self) -> Mapping[str, DeclaredSession]:
        """The declared sessions by name."""
        return dict(self._sessions)

    @overload
    def reasoner(self, name: F) -> F: ...

    @overload
    def reasoner(
        self,
        name: str | None = None,
        *,
        description: str | None = None,
        tags: Iterable[str] = (),
        timeout: float | None = None,
        retries: int = 0,
        retry_on: RetryOn = (),
        backoff: float = 0.5,
        concurrency: int | None = None,
        on_interrupt: OnInterrupt = "keep",
    ) -> Callable[[F], F]: ...

    @checked_arguments
    def reasoner(
        self,
        name: str | F | None = None,
        *,
        description: str | None = None,
        tags: Iterable[str] = (),
        timeout: float | None = None,
        retries: int = 0,
        retry_on: RetryOn = (),
        backoff: float = 0.5,
        concurrency: int | None = None,
        on_interrupt: OnInterrupt = "keep",
    ) -> F | Callable[[F], F]:
        """Expose a function, ``async def`` or ``def``, as ``node_id.name``; the function itself is returned unchanged.

        Args:
            name: The name, by default the function's own.
            description: Shown to callers and models; by default the docstring.
            tags: Tags for access rules.
            timeout: Seconds that an attempt may take.
            retries: Further attempts after one that was lost with its node, or that failed with one of `retry_on`.
            retry_on: Exception classes, and codes of `AgentFieldError`, after which another attempt is made.
            backoff: Seconds before the second attempt; doubled for each further one, up to a minute, less a random part.
            concurrency: How many attempts may run at a time, on all instances of the node together.
            on_interrupt: Whether a call that a model made is kept or cancelled when the caller speaks over the reply.

        Raises:
            InvalidInput: The declaration is invalid.
            Conflict: The name is taken, or the agent is linked already.
        """

        def decorate(fn: F) -> F:
            frame = inspect.currentframe()
            outer = frame.f_back if frame is not None else None
            declared = Reasoner(
                fn,
                name=None if callable(name) else name,
                description=description,
                tags=_tags(tags),
                timeout=timeout,
                retries=retries,
                retry_on=retry_on,
                backoff=backoff,
                concurrency=concurrency,
                on_interrupt=on_interrupt,
                # The hints of a function defined inside another one may use types that are local there.
                namespace=outer.f_locals if outer is not None else None,
            )
            self._claim(declared.spec.name)
            self._reasoners[declared.spec.name] = declared
            return fn

        return decorate(name) if callable(name) else decorate

    @checked_arguments
    def session(
        self,
        name: str,
        *,
        provider: str,
        transport: str,
        model: str | None = None,
        modalities: Sequence[Literal["audio", "text"]] | None = None,
        voice: str | None = None,
        tools: Sequence[str] = (),
        tags: Iterable[str] = (),
        instructions: str | None = None,
        floor: Floor | None = None,
        say: Literal["exact", "best_effort"] | None = None,
        transcription: str | None = None,
        turn_detection: ServerVad | SemanticVad | Mapping[str, Any] | Default | None = DEFAULT,
        greeting: str | Say | None = None,
        goodbye: str | Say | None = None,
        on_error: str | None = None,
        interrupt_after_ms: int = 0,
        limits: Limits = Limits(),
        drift: Literal["enforce", "terminate", "allow"] = "enforce",
        show_tools: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> Callable[[H], H]:
        """Declare a live conversation that the decorated ``async def`` handles.

        Args:
            name: The session's name; its target is ``node_id.name``.
            provider: The provider of the conversation, such as ``openai`` or ``local``.
            transport: How the caller connects, such as ``webrtc``. Never switched silently.
            model: The provider's model, by default the provider's default.
            modalities: The forms of the agent's answers, by default those of the pair and the model.
            voice: The provider's voice, by default the provider's default.
            tools: Targets that the model may call by itself; it is offered no other tools.
            tags: Tags for access rules.
            instructions: The model's instructions.
            floor: Whether the handler or the model answers turns; by default the model if the handler's body is empty.
            say: ``exact`` refuses pairs that cannot speak a text word for word.
            transcription: The model that transcribes the caller, by default the pair's.
            turn_detection: How the end of a turn is detected, by default the pair's; None for push-to-talk.
            greeting: Text to speak first; ``Say(text, interruptible=False)`` for one that the caller must hear to its end, such
                as a legal notice.
            goodbye: Text to speak when this side ends the call; a text or `Say`.
            on_error: Text to speak when the handler raised, or when the model cannot answer a turn on its floor.
            interrupt_after_ms: Milliseconds that the caller must speak before a reply is stopped, so that a short "mhm" does
                not interrupt. Refused for a provider that interrupts by itself and cannot wait.
            limits: Limits of duration, idle time, turns, tool calls and cost.
            drift: How to treat a caller that changes the provider's session over its data channel.
            show_tools: Whether callers see the names and states of tools on their page and in their events.
            options: Settings of the pair.

        Raises:
            InvalidInput: An argument does not exist, or the declaration is invalid.
            Conflict: The name is taken, or the agent is linked already.
            PluginError: An installed plugin cannot do what is declared.
        """
        values: dict[str, Any] = {
            "provider": provider,
            "transport": transport,
            "model": model,
            "modalities": modalities,
            "voice": voice,
            "tools": tools,
            "tags": _tags(tags),
            "instructions": instructions,
            "say": say,
            "transcription": transcription,
            "greeting": greeting,
            "goodbye": goodbye,
            "on_error": on_error,
            "interrupt_after_ms": interrupt_after_ms,
            "limits": limits,
            "drift": drift,
            "show_tools": show_tools,
            "options": dict(options or {}),
        }
        if not isinstance(turn_detection, Default):
            values["turn_detection"] = turn_detection

        def decorate(handler: H) -> H:
            check_handler(name, handler)
            declaration = declare_session(name, handler=handler, floor=floor, **values)
            check_pair(declaration, self._plugins())
            self._claim(name)
            self._sessions[name] = DeclaredSession(declaration, handler)
            return handler

        return decorate

    # --- inside

    @property
    def _working(self) -> bool:
        """Whether the agent has started to link; its declarations are registered then and can no longer change."""
        return False

    def _claim(self, name: str) -> None:
        if self._working:
            raise Conflict(
                f"{self.node_id} is linked; {name!r} is declared too late.", hint="Declare it before app.run()."
            )
        if name in self._reasoners or name in self._sessions:
            raise Conflict(
                f"{self.node_id}.{name} is declared twice.", hint="Give one of them another name.", field="name"
            )

    def _plugins(self) -> Registry:
        if self._registry is None:
            from agentfield.plugins.registry.registry import Registry

            self._registry = Registry.discover()
        return self._registry

    def _pairs(self) -> tuple[InstalledPair, ...]:
        if not self._sessions:  # an agent without sessions never imports plugins
            return ()
        from agentfield.plugins.registry.session_checks import installed_pairs

        return installed_pairs(self._plugins())


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise InvalidInput(f"tags is a text; write [{tags!r}].", code="invalid_declaration", field="tags")
    found = tuple(tags)
    if len(found) > MAX_TAGS or not all(isinstance(tag, str) and 1 <= len(tag) <= MAX_TAG for tag in found):
        raise InvalidInput(
            f"tags has at most {MAX_TAGS} texts, each of 1 to {MAX_TAG} characters.",
            code="invalid_declaration",
            field="tags",
        )
    return found
