"""Start of a session: the checks before it exists, its frozen configuration, and its first records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agentfield.errors import InvalidInput, NodeNotConnected, NotFound
from agentfield.ids import new_id
from agentfield.plugins import Capabilities, PairSpec, Registry
from agentfield.plugins.hooks.arguments import SessionRequest
from agentfield.plugins.manifest.choices import capabilities_of, choose_name
from agentfield.plugins.registry.session_checks import check_declaration
from agentfield.plugins.wording import did_you_mean
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec, TurnDetection
from agentfield.realtime.transport import Evidence
from agentfield.values import encode
from agentfield.wire.node_declarations import FunctionSpec
from agentfield.wire.rest import StartRequest
from agentfield_server.nodes import LinkHub, declaration_hash
from agentfield_server.sessions.media_entry import starts_elsewhere_error
from agentfield_server.store.records import IdempotencyKey, NewEvent, NewExecution, NewSession

__all__ = ["IncomingCall", "ResolvedStart", "admission_request", "initial_records", "resolve_start"]


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call that came in over a plugin's transport and starts its own session."""

    transport: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class ResolvedStart:
    """A start request that passed all checks."""

    config: SessionConfig
    pair: PairSpec
    node_id: str


def resolve_start(
    request: StartRequest,
    *,
    session_id: str,
    hub: LinkHub,
    registry: Registry,
    incoming_call: IncomingCall | None = None,
) -> ResolvedStart:
    """Check a request to start a session and freeze its configuration.

    Args:
        request: The start request.
        session_id: Id of the new session.
        hub: The linked nodes and their declarations.
        registry: The installed plugins.
        incoming_call: The call over a plugin's transport that starts the session; None for a start by an operator.

    Raises:
        Conflict: Only a caller of the session's transport can start it (code `starts_elsewhere`).
        NotFound: No node declares the target (code `unknown_session`).
        NodeNotConnected: The node that declares it is not linked.
        InvalidInput: The request or a name in the declaration is invalid; the message lists what is available. Metadata that
            cannot be carried has the code `unrepresentable`.
        PluginError: The pair is not installed, or lacks a capability that the session declares.
    """
    encode(request.caller, name="caller")
    encode(request.metadata, name="metadata")
    declaration = _find_declaration(request.target, hub)
    node_id = request.target.partition(".")[0]
    _check_linked(request.target, node_id, hub)
    for name in ("provider", "transport", "model", "voice"):
        _check_same(name, getattr(request, name), getattr(declaration, name), request.target)
    if incoming_call is not None and incoming_call.transport != declaration.transport:
        raise _wrong_transport_error(request.target, incoming_call.transport, declaration.transport)
    pair = check_declaration(declaration, registry, model=request.model, voice=request.voice)
    transport = registry.transport(pair.transport)
    if incoming_call is None and transport.factory is not None:
        raise starts_elsewhere_error(request.target, pair, transport)
    provider = registry.provider(declaration.provider)
    model = choose_name(provider, "model", request.model or declaration.model)
    config = SessionConfig(
        session_id=session_id,
        target=request.target,
        declaration=declaration,
        model=model,
        voice=choose_name(provider, "voice", request.voice or declaration.voice, model=model),
        modalities=declaration.modalities or tuple(sorted(capabilities_of(pair, provider, model).modalities)),
        transcription=declaration.transcription or pair.capabilities.default_transcription,
        turn_detection=_turn_detection(declaration, pair.capabilities),
        tools=tuple(_tool(target, request.target, hub.functions()) for target in declaration.tools),
        safety_id=_safety_id(request.caller),
    )
    return ResolvedStart(config, pair, node_id)


def admission_request(
    request: StartRequest, config: SessionConfig, principal: str, incoming_call: IncomingCall | None
) -> SessionRequest:
    """Return the request that plugins with an admission hook decide on."""
    return SessionRequest(
        target=request.target,
        caller=request.caller,
        metadata=MappingProxyType(dict(request.metadata)),
        provider=config.declaration.provider,
        transport=config.declaration.transport,
        model=config.model,
        tags=tuple(config.declaration.tags),
        principal=principal,
        evidence=incoming_call.evidence if incoming_call is not None else None,
    )


def initial_records(
    request: StartRequest,
    resolved: ResolvedStart,
    principal: str,
    idempotency: IdempotencyKey | None,
    incoming_call: IncomingCall | None = None,
    traceparent: str | None = None,
) -> tuple[NewSession, NewExecution, NewEvent]:
    """Return the first records of a session: its row, its root execution and its `session.created` event."""
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
    if incoming_call is not None:
        created["evidence"] = {"method": incoming_call.evidence.method, "facts": dict(incoming_call.evidence.facts)}
    return session, root, NewEvent(type="session.created", body=created)


def _turn_detection(declared: SessionDeclaration, can: Capabilities) -> TurnDetection | None:
    """Return the turn detection: as declared, or by the provider's server VAD if the pair has it."""
    match declared.turn_detection:
        case "default":
            return ServerVad() if "server_vad" in can.turn_detection else None
        case "manual":
            return None
        case detection:
            return detection


def _safety_id(caller: str | None) -> str | None:
    """Return a stable pseudonym of the caller for the provider: a truncated SHA-256, never the name itself."""
    return None if caller is None else hashlib.sha256(caller.encode()).hexdigest()[:32]


def _find_declaration(target: str, hub: LinkHub) -> SessionDeclaration:
    if (refused := hub.refused_session(target)) is not None:
        raise refused
    known = hub.sessions()
    if target in known:
        return known[target]
    if target in hub.functions():
        raise NotFound(
            f"{target!r} is a reasoner, not a session. Known sessions: {_comma_list(known)}.",
            code="unknown_session",
            hint=f"call it with: af execute {target}",
            target=target,
        )
    raise NotFound(
        f"No node declares the session {target!r}.{did_you_mean(target, known)} Known sessions: {_comma_list(known)}.",
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


def _wrong_transport_error(target: str, transport: str, declared: str) -> InvalidInput:
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
            f"{session} lists the tool {target!r}, which no known node exposes. Known targets: {_comma_list(functions)}.",
            code="unknown_tool",
            hint="start the node that exposes it, or correct tools=[...]",
            field="tools",
            target=target,
        )
    return ToolSpec(
        target=target, description=spec.description, parameters=spec.input_schema, on_interrupt=spec.on_interrupt
    )


def _comma_list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
