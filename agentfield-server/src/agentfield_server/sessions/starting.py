"""Everything that is checked before a session exists (refusals say what there is), and what is written of it first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agentfield.errors import InvalidInput, NodeNotConnected, NotFound
from agentfield.ids import new_id
from agentfield.plugins import Capabilities, PairSpec, Registry
from agentfield.plugins.choices import choose
from agentfield.plugins.hooks import SessionRequest
from agentfield.plugins.registration import check_declaration
from agentfield.plugins.words import did_you_mean
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec, TurnDetection
from agentfield.realtime.transport import Evidence
from agentfield.wire.frames import FunctionSpec
from agentfield.wire.rest import StartRequest
from agentfield_server.nodes import LinkHub, declaration_hash
from agentfield_server.sessions.ways import starts_elsewhere
from agentfield_server.store.records import IdempotencyKey, NewEvent, NewExecution, NewSession

__all__ = ["Arrival", "Resolved", "asked_of_plugins", "resolve_start", "written"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A caller who came over a transport of a plugin, which starts the session by that."""

    transport: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Resolved:
    """A session that may be started."""

    config: SessionConfig
    pair: PairSpec
    node_id: str


def resolve_start(
    request: StartRequest, *, session_id: str, hub: LinkHub, registry: Registry, arrival: Arrival | None = None
) -> Resolved:
    """Check a request to start a session and freeze its configuration.

    Args:
        request: What was asked.
        session_id: Name of the session.
        hub: Knows what the nodes declare.
        registry: The pairs that are installed.
        arrival: The caller of a transport, where that starts the session; None where an operator does.

    Raises:
        Conflict: Only its transport can start it (code `starts_elsewhere`).
        NotFound: No node declares the target (code `unknown_session`).
        NodeNotConnected: Its node is away.
        InvalidInput: The request, or a name in the declaration, does not fit; the message says what is available.
        PluginError: The pair is not there or cannot do what the session declares.
    """
    declaration = _declared(request.target, hub)
    node_id = request.target.partition(".")[0]
    _check_linked(request.target, node_id, hub)
    for name in ("provider", "transport", "model", "voice"):
        _check_same(name, getattr(request, name), getattr(declaration, name), request.target)
    if arrival is not None and arrival.transport != declaration.transport:
        raise _came_otherwise(request.target, arrival.transport, declaration.transport)
    pair = check_declaration(declaration, registry)
    transport = registry.transport(pair.transport)
    if arrival is None and transport.factory is not None:
        raise starts_elsewhere(request.target, pair, transport)
    provider = registry.provider(declaration.provider)
    config = SessionConfig(
        session_id=session_id,
        target=request.target,
        declaration=declaration,
        model=choose(provider, "model", request.model or declaration.model),
        voice=choose(provider, "voice", request.voice or declaration.voice),
        transcription=declaration.transcription or pair.capabilities.default_transcription,
        turn_detection=_turn_detection(declaration, pair.capabilities),
        tools=tuple(_tool(target, request.target, hub.functions()) for target in declaration.tools),
        safety_id=_safety_id(request.caller),
    )
    return Resolved(config, pair, node_id)


def asked_of_plugins(
    request: StartRequest, config: SessionConfig, principal: str, arrival: Arrival | None
) -> SessionRequest:
    """Return what plugins are told that decide whether a session may start."""
    return SessionRequest(
        target=request.target,
        caller=request.caller,
        metadata=MappingProxyType(dict(request.metadata)),
        provider=config.declaration.provider,
        transport=config.declaration.transport,
        model=config.model,
        tags=tuple(config.declaration.tags),
        principal=principal,
        evidence=arrival.evidence if arrival is not None else None,
    )


def written(
    request: StartRequest,
    resolved: Resolved,
    principal: str,
    idempotency: IdempotencyKey | None,
    arrival: Arrival | None = None,
    traceparent: str | None = None,
) -> tuple[NewSession, NewExecution, NewEvent]:
    """Return what is written of a session first: itself, its root execution, and the event that tells of both."""
    config, run_id = resolved.config, new_id("run")
    declared = config.declaration
    session = NewSession(
        id=config.session_id,
        run_id=run_id,
        target=request.target,
        node_id=resolved.node_id,
        caller=request.caller,
        metadata=request.metadata,
        config=config.model_dump(mode="json"),
        declaration_hash=declaration_hash(declared),
        principal=principal,
        idempotency=idempotency,
    )
    root = NewExecution(
        id=new_id("exe"),
        run_id=run_id,
        kind="session",
        target=request.target,
        input={"caller": request.caller, "metadata": request.metadata},
        session_id=config.session_id,
        actor_id=request.caller,
        status="running",
        traceparent=traceparent,
    )
    created: dict[str, object] = {
        "target": request.target,
        "provider": declared.provider,
        "transport": declared.transport,
        "model": config.model,
        "voice": config.voice,
        "floor": declared.floor,
        "caller": request.caller,
    }
    if arrival is not None:
        created["evidence"] = {"method": arrival.evidence.method, "facts": dict(arrival.evidence.facts)}
    return session, root, NewEvent(type="session.created", body=created)


def _turn_detection(declared: SessionDeclaration, can: Capabilities) -> TurnDetection | None:
    """Return how the end of a turn is found: as declared, or as the pair does it by itself."""
    match declared.turn_detection:
        case "default":
            return ServerVad() if "server_vad" in can.turn_detection else None
        case "manual":
            return None
        case detection:
            return detection


def _safety_id(caller: str | None) -> str | None:
    """Return what stands for the caller towards the provider: the same for each of their calls, and no name."""
    return None if caller is None else hashlib.sha256(caller.encode()).hexdigest()[:32]


def _declared(target: str, hub: LinkHub) -> SessionDeclaration:
    if (refused := hub.refused_session(target)) is not None:
        raise refused
    known = hub.sessions()
    if target in known:
        return known[target]
    if target in hub.functions():
        raise NotFound(
            f"{target!r} is a reasoner, not a session. Known sessions: {_listed(known)}.",
            code="unknown_session",
            hint=f"call it with: af execute {target}",
            target=target,
        )
    raise NotFound(
        f"No node declares the session {target!r}.{did_you_mean(target, known)} Known sessions: {_listed(known)}.",
        code="unknown_session",
        hint="start the agent that declares it: af run FILE",
        target=target,
    )


def _check_linked(target: str, node_id: str, hub: LinkHub) -> None:
    if hub.links(node_id) or hub.recently_linked(node_id):
        return
    raise NodeNotConnected(
        f"{target} is declared by the node {node_id!r}, which is not connected.",
        hint=f"start the node again: af run FILE (the one with Agent({node_id!r}))",
        node_id=node_id,
    )


def _check_same(name: str, asked: str | None, declared: str | None, target: str) -> None:
    if asked is None or declared is None or asked == declared:
        return
    raise InvalidInput(
        f"The start asks for {name} {asked!r}, but {target} is registered with {name} {declared!r}; nothing is switched silently.",
        code="declaration_mismatch",
        hint=f"leave --{name} away, or change {name}={declared!r} in @app.session(...)",
        field=name,
    )


def _came_otherwise(target: str, transport: str, declared: str) -> InvalidInput:
    return InvalidInput(
        f"A call for {target} came over {transport}, but it is registered with transport {declared!r};"
        " nothing is switched silently.",
        code="declaration_mismatch",
        hint=f"declare transport={transport!r} in @app.session(...), or send the call to another session",
        field="transport",
    )


def _tool(target: str, session: str, functions: Mapping[str, FunctionSpec]) -> ToolSpec:
    spec = functions.get(target)
    if spec is None:
        raise InvalidInput(
            f"{session} lists the tool {target!r}, which no known node exposes. Known targets: {_listed(functions)}.",
            code="unknown_tool",
            hint="start the node that exposes it, or correct tools=[...]",
            field="tools",
            target=target,
        )
    return ToolSpec(
        target=target, description=spec.description, parameters=spec.input_schema, on_interrupt=spec.on_interrupt
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
