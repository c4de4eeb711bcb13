"""What the control plane says of the sessions that a node registers: those that it cannot carry are refused by name.

The node and the control plane may have different plugins. The control plane carries the call, so it decides; a refusal
shows what both have, since whoever reads it may be sure to have installed the plugin, and be right.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentfield.errors import AgentFieldError, PluginError
from agentfield.plugins.choices import check_options, choose
from agentfield.plugins.matrix import needs_of
from agentfield.plugins.registry import Registry
from agentfield.plugins.spec import PairSpec
from agentfield.plugins.words import listed
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import Hello, InstalledPair

__all__ = ["check_declaration", "installed_pairs", "refused_sessions"]


def check_declaration(declaration: SessionDeclaration, registry: Registry) -> PairSpec:
    """Return the pair that a session runs over.

    Raises:
        PluginError: The pair is not there, or cannot do what the session declares.
        InvalidInput: The pair has no such option, model or voice.
    """
    pair = registry.resolve(declaration.provider, declaration.transport, needs_of(declaration))
    check_options(pair, declaration.options)
    provider = registry.provider(declaration.provider)
    if declaration.model is not None:  # whoever starts the session may name one
        choose(provider, "model", declaration.model)
    choose(provider, "voice", declaration.voice)
    return pair


def installed_pairs(registry: Registry) -> tuple[InstalledPair, ...]:
    """Return the rows of a registry as a node sends them."""
    return tuple(InstalledPair(pair=spec.name, distribution=record.label) for spec, record in registry.pairs())


def refused_sessions(registry: Registry, hello: Hello) -> dict[str, AgentFieldError]:
    """Return why sessions of a node cannot be registered, by their names; what is not named is fine.

    Args:
        registry: The plugins of the control plane.
        hello: What the node declares, and which pairs it has.
    """
    refused: dict[str, AgentFieldError] = {}
    ours = installed_pairs(registry)
    for declaration in hello.sessions:
        try:
            check_declaration(declaration, registry)
        except PluginError as error:
            refused[declaration.name] = _with_both_lists(error, hello.node_id, ours, hello.pairs)
        except AgentFieldError as error:
            refused[declaration.name] = error
    return refused


def _with_both_lists(
    error: PluginError, node_id: str, ours: Iterable[InstalledPair], theirs: Iterable[InstalledPair]
) -> PluginError:
    """Return the error with what both sides have, where the node has plugins and they are not the same."""
    ours, theirs = tuple(ours), tuple(theirs)
    if not theirs or set(ours) == set(theirs):
        return error
    both = f"The control plane decides, and has: {listed(map(str, ours))}. The node {node_id!r} has: {listed(map(str, theirs))}."
    hint = f"on the control plane: {error.hint}" if error.hint else None
    data = error.data | {"node_installed": sorted({row.pair for row in theirs})}
    return type(error)(f"{error.message} {both}", code=error.code, hint=hint, **data)
