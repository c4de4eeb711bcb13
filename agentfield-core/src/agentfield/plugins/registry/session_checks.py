"""Checks of session declarations against a registry, at registration and at start.

The node and the control plane may have different plugins. The control plane runs the call, so it decides. A refusal lists
the pairs of both: its reader may have installed the plugin on the node only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentfield.errors import AgentFieldError, PluginError
from agentfield.plugins.manifest.choices import check_options, choose_name
from agentfield.plugins.manifest.spec import Need, PairSpec
from agentfield.plugins.registry.registry import Registry
from agentfield.plugins.wording import listed
from agentfield.realtime.config import Say, SessionDeclaration
from agentfield.wire.frames import Hello
from agentfield.wire.node_declarations import InstalledPair

__all__ = ["check_declaration", "installed_pairs", "needs_of", "refused_sessions"]


_SPEAKS = frozenset[object]({"exact", "best_effort"})


def needs_of(declaration: SessionDeclaration) -> tuple[Need, ...]:
    """Return the needs of a session's declaration, in the order in which refusals name them."""
    return tuple(_needs(declaration))


def _needs(declared: SessionDeclaration) -> Iterator[Need]:
    yield Need("floors", frozenset({declared.floor}), f"the {declared.floor} floor")
    if declared.modalities is not None:
        yield Need("modalities", frozenset(declared.modalities), f"modalities={list(declared.modalities)}")
    if declared.tools:
        yield Need("tools", frozenset({"sync", "async"}), "tools=[...]")
    yield from _speech_needs(declared)
    if declared.turn_detection != "default":
        detection = (
            declared.turn_detection if isinstance(declared.turn_detection, str) else declared.turn_detection.type
        )
        yield Need("turn_detection", frozenset({detection}), "turn_detection")
    if declared.transcription:
        because = f"transcription={declared.transcription!r}"
        yield Need("caller_transcript", frozenset({"final", "partial"}), because)
        yield Need("transcription", frozenset({"model"}), because)
    elif declared.floor == "handler":
        yield Need("caller_transcript", frozenset({"final", "partial"}), "the handler floor")
    if declared.interrupt_after_ms:
        because = f"interrupt_after_ms={declared.interrupt_after_ms}"
        yield Need("interruption", frozenset({"server", "client"}), because)
        yield Need("delays_interruption", frozenset({True}), because)
    yield from _limit_needs(declared)
    if declared.drift != "allow":
        yield Need("client_leg", frozenset({"none", "filtered", "watched"}), f"drift={declared.drift!r}")


def _speech_needs(declared: SessionDeclaration) -> Iterator[Need]:
    if declared.say == "exact":
        yield Need("say", frozenset({"exact"}), "say='exact'")
    elif declared.say:
        yield Need("say", _SPEAKS, "say='best_effort'")
    parts = {name: getattr(declared, name) for name in ("greeting", "goodbye", "on_error")}
    texts = {name: text for name, text in parts.items() if text is not None}
    for name in texts:
        yield Need("say", _SPEAKS, f"{name}=...")
    for name, text in texts.items():
        if isinstance(text, Say) and not text.interruptible:
            yield Need("uninterruptible", frozenset({True}), f"{name}=Say(..., interruptible=False)")


def _limit_needs(declared: SessionDeclaration) -> Iterator[Need]:
    limits = declared.limits
    yield Need("limits", frozenset({"duration", "idle"}), "Limits(duration=..., idle=...)")
    for name in ("turns", "tool_calls", "cost"):
        if getattr(limits, name) is not None:
            yield Need("limits", frozenset({name}), f"Limits({name}={getattr(limits, name)})")
    yield Need("max_duration", frozenset({limits.duration}), f"Limits(duration={limits.duration:g})")


def check_declaration(
    declaration: SessionDeclaration, registry: Registry, *, model: str | None = None, voice: str | None = None
) -> PairSpec:
    """Return the pair of a session.

    Args:
        declaration: The declaration.
        registry: The plugins.
        model: The model that the start request names, where the declaration names none.
        voice: The voice that it names.

    Raises:
        PluginError: The pair does not exist, or does not meet the declaration's needs.
        InvalidInput: An option, the model or the voice is unknown.
    """
    model, voice = declaration.model or model, declaration.voice or voice
    pair = registry.resolve(declaration.provider, declaration.transport, needs_of(declaration), model=model)
    check_options(pair, declaration.options)
    provider = registry.provider(declaration.provider)
    if model is not None:  # the start request may name one
        choose_name(provider, "model", model)
    choose_name(provider, "voice", voice, model=model)
    return pair


def installed_pairs(registry: Registry) -> tuple[InstalledPair, ...]:
    """Return the pairs of a registry in the form that nodes send."""
    return tuple(InstalledPair(pair=spec.name, distribution=record.label) for spec, record in registry.pairs())


def refused_sessions(registry: Registry, hello: Hello) -> dict[str, AgentFieldError]:
    """Return the errors of a node's sessions by session name; sessions without an error are accepted.

    Args:
        registry: The plugins of the control plane.
        hello: The declarations and pairs of the node.
    """
    refused: dict[str, AgentFieldError] = {}
    plane_pairs = installed_pairs(registry)
    for declaration in hello.sessions:
        try:
            check_declaration(declaration, registry)
        except PluginError as error:
            refused[declaration.name] = _with_both_lists(error, hello.node_id, plane_pairs, hello.pairs)
        except AgentFieldError as error:
            refused[declaration.name] = error
    return refused


def _with_both_lists(
    error: PluginError, node_id: str, plane: Iterable[InstalledPair], node: Iterable[InstalledPair]
) -> PluginError:
    """Return the error with the pairs of both sides, if the node has plugins and their pairs differ."""
    plane, node = tuple(plane), tuple(node)
    if not node or set(plane) == set(node):
        return error
    both = f"The control plane decides, and has: {listed(map(str, plane))}. The node {node_id!r} has: {listed(map(str, node))}."
    hint = f"on the control plane: {error.hint}" if error.hint else None
    data = error.data | {"node_installed": sorted({row.pair for row in node})}
    return type(error)(f"{error.message} {both}", code=error.code, hint=hint, **data)
