"""The page `docs/plugin-reference.md`: events, commands, contracts and capability values, taken from the source of agentfield-core.

Run as a script, it writes the page; `tests/unit/core/plugins/test_plugin_reference.py` compares it. Names, types, defaults and texts
are those of the source, so a change of a contract changes the page.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import agentfield_server
from agentfield.plugins import hooks
from agentfield.plugins.hooks import arguments, hookspecs
from agentfield.plugins.manifest import spec
from agentfield.plugins.registry.matrix_document import MEANINGS
from agentfield.realtime import audio, caller, commands, config, events, provider, transport
from agentfield.realtime.bridge import leg_attachment
from agentfield.testing import peer

__all__ = ["COMMAND", "PAGE", "RECORDED", "plugin_reference", "recorded_types"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-reference.md"
COMMAND = "uv run python tests/support/plugin_reference.py"
"""Command that regenerates the page, in the root of a checkout."""

RECORDED = {
    "approval.decided": "an approval was decided, or expired",
    "approval.requested": "a call waits for the approval of a human",
    "backchannel": "a turn was only a sign of listening, so the agent went on",
    "drift": "the caller's client changed the provider's configuration; `action` says what was done",
    "dtmf": "the caller pressed a key",
    "execution.created": "a call, tool call, turn or session has an execution",
    "execution.ended": "an execution ended, with its status",
    "execution.progress": "a node reported progress",
    "execution.retrying": "an execution runs again, because its node was lost or it failed",
    "execution.returned": "a node gave back an execution that it had not started",
    "execution.started": "a node entered the function",
    "handler.failed": "a handler raised",
    "handler.started": "a handler runs, `resumed` after its node or the control plane was lost",
    "log.redacted": "bodies of events and executions were erased: by whom, why, and which",
    "provider.attached": "the provider's session is open; `verified` says whether its model and voice were compared",
    "provider.refused": "the provider refused the session",
    "session.created": "a session was started; its caller has not connected yet",
    "session.state": "a session changed its state; `ended` has the reason",
    "session.usage": "the whole usage of a session, at its end",
    "speech.ended": "a speech of the agent ended: asked, generated and heard",
    "speech.started": "a speech of the agent began",
    "tool.answered": "the model was sent the result of a call, or that it is pending",
    "tool.cancelled": "the provider took back a call of the model",
    "tool.input_changed": "a middleware changed the input of a call",
    "tool.input_redacted": "a middleware redacted the input of a call before it was recorded",
    "tool.middleware_failed": "a middleware failed, so the call has no result",
    "tool.output_changed": "a middleware changed the output of a call",
    "tool.refused": "a call of the model was refused; `why` says the reason",
    "tool.requested": "the model called a tool, and the call runs",
    "tool.vetoed": "a middleware vetoed a call",
    "turn.committed": "the caller said or typed something",
    "turn.discarded": "a turn will not be answered",
    "turn.transcript": "the words of a turn came after the turn, or changed",
    "turn.unanswered": "the model chose to say nothing",
    "usage": "a reply, transcription or turn was paid for",
    "warning": "something does not work as declared, and the call goes on",
}
"""Types of recorded events, each with its meaning."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef

_INTRODUCTION = f"""\
# Plugin reference

All events, commands, contracts, manifest fields and capability values on one page, for authors of plugins. [Write a plugin](write-a-plugin.md)
is the tutorial; [plugins](plugins.md), [transports](transports.md) and [hooks](hooks.md) explain how the parts work together.

This page is generated from the source: `{COMMAND}`. It describes plugin API {spec.PLUGIN_API[0]}.{spec.PLUGIN_API[1]}.
"""


def plugin_reference() -> str:
    """Return the page."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    yield from _contents()
    yield from _heading("Manifest", "What a plugin declares (`agentfield.plugins`).")
    for name in _ordered(spec, first=("Manifest",), skip=("PLUGIN_API", "Capabilities", "Need")):
        yield from _record(getattr(spec, name))
    yield from _heading(
        "Capabilities",
        "The capabilities of a pair (`agentfield.plugins.Capabilities`). The default means that the pair lacks the capability.",
    )
    yield from _capabilities()
    yield from _heading(
        "Events",
        "What an adapter yields (`agentfield.realtime.events`). Every event is a frozen pydantic model; `type` is its name in JSON.",
    )
    yield from _messages(events, ("Event", "event_adapter"))
    yield from _heading(
        "Commands",
        "What an adapter is sent (`agentfield.realtime.commands`), as frozen pydantic models like the events.",
    )
    yield from _messages(commands, ("Command", "command_adapter"))
    yield from _heading(
        "Configuration of a session",
        "What `open` receives (`agentfield.realtime.config`, `agentfield.realtime.audio`).",
    )
    for module in (config, audio):
        for name in _classes(module):
            yield from _record(getattr(module, name))
    yield from _heading(
        "Contract of a provider",
        "What an adapter implements, and the runtime of its factory (`agentfield.realtime.provider`).",
    )
    for name in _classes(provider):
        yield from _record(getattr(provider, name))
    yield from _heading(
        "Contract of a transport",
        "What a transport implements, and the runtime of its factory (`agentfield.realtime.transport`, `agentfield.realtime.caller`).",
    )
    for each in (*_members_of(transport), caller.CallerLeg, leg_attachment.WritableLeg):
        yield from _record(each)
    yield from _heading("Input of a caller", "What `CallerLeg.input` yields (`agentfield.realtime.caller`).")
    for each in _members_of(caller):
        if each is not caller.CallerLeg:
            yield from _record(each)
    yield from _alias(caller, "LegEnd")
    yield from _heading(
        "Hooks", "What a plugin may implement besides, and the values that hooks receive (`agentfield.plugins`)."
    )
    yield from _record(hookspecs.PluginHooks)
    for each in _members_of(arguments):
        yield from _record(each)
    yield from _heading(
        "Recorded events",
        "The types of the log (`RecordedEvent.type`), which observers and `GET /api/v1/sessions/{id}/events` get. New types will be added.",
    )
    yield from ("", "| `type` | meaning |", "|---|---|")
    yield from (f"| `{name}` | {meaning} |" for name, meaning in RECORDED.items())
    yield from _heading("Peers of the conformance kit", "The fakes that the kit talks to (`agentfield.testing.peer`).")
    for each in _members_of(peer):
        yield from _record(each)


def _contents() -> Iterator[str]:
    parts = (
        "Manifest",
        "Capabilities",
        "Events",
        "Commands",
        "Configuration of a session",
        "Contract of a provider",
        "Contract of a transport",
        "Input of a caller",
        "Hooks",
        "Recorded events",
        "Peers of the conformance kit",
    )
    for part in parts:
        yield f"- [{part}](#{part.lower().replace(' ', '-')})"


def _heading(title: str, text: str) -> Iterator[str]:
    yield from ("", f"## {title}", "", text)


# --- parts


def _messages(module: ModuleType, skip: Iterable[str]) -> Iterator[str]:
    """Yield the messages of a module in its order: first a table of all, then each with its fields."""
    classes = [name for name in _classes(module) if name not in skip]
    kinds = {name: _kind(getattr(module, name)) for name in classes}
    yield from ("", "| `type` | class | meaning |", "|---|---|---|")
    for name in sorted((each for each in classes if kinds[each]), key=lambda each: _order(module, each)):
        summary = _text(inspect.getdoc(getattr(module, name)) or "").partition(". ")[0].rstrip(".")
        yield f"| `{kinds[name]}` | [`{name}`](#{name.lower()}) | {_cell(summary)} |"
    for name in sorted(classes, key=lambda each: _order(module, each)):
        yield from _record(getattr(module, name))


def _capabilities() -> Iterator[str]:
    meanings = dict(MEANINGS)
    yield from ("", "| field | values | default | meaning |", "|---|---|---|---|")
    for name, annotation, default, text in _fields(spec.Capabilities):
        values = _values(spec.Capabilities.__annotations__[name]) or f"`{_cell(annotation)}`"
        yield f"| `{name}` | {values} | `{default}` | {_cell(_text(text) or meanings.get(name, ''))} |"


def _values(hint: Any) -> str:
    """Return the literal values of a type, "" if it has none."""
    if get_origin(hint) is frozenset:
        inner = _values(get_args(hint)[0])
        return f"set of {inner}" if inner else ""
    arguments_ = get_args(hint)
    return (
        ", ".join(f"`{each}`" for each in arguments_)
        if arguments_ and all(isinstance(each, str) for each in arguments_)
        else ""
    )


def _record(cls: type) -> Iterator[str]:
    """Yield a class: its text, its fields as a table, and its methods and properties."""
    yield from ("", f"### {cls.__name__}", "")
    yield from _paragraphs(inspect.getdoc(cls) or "")
    fields = [each for each in _fields(cls) if each[0] != "type" and not each[0].startswith("_")]
    if fields:
        yield from ("", "| field | type | default | meaning |", "|---|---|---|---|")
        for name, annotation, default, text in fields:
            shown = f"`{default}`" if default else "required"
            yield f"| `{name}` | `{_cell(annotation)}` | {_cell(shown)} | {_cell(_text(text))} |"
    for node in _methods(cls):
        yield from ("", f"`{_signature(node)}`", "")
        yield from _paragraphs(ast.get_docstring(node) or "", indent="> ")


def _alias(module: ModuleType, name: str) -> Iterator[str]:
    body = _tree(module).body
    for at, node in enumerate(body):
        match node:
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                after = body[at + 1] if at + 1 < len(body) else None
                yield from ("", f"### {name}", "", f"`{ast.unparse(node.value)}`", "")
                yield from _paragraphs(_docstring_of(after))


# --- reading the source


def recorded_types() -> set[str]:
    """Return the types of events that the control plane and the tool middleware record."""
    found = set()
    for package in (agentfield_server, hooks):
        for path in Path(package.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    found |= _recorded(node)
    return found


def _recorded(call: ast.Call) -> set[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("NewEvent", "RecordEvent", "add_event", "_add_event", "record"):
        return set()
    kinds = [*call.args[:1], *(each.value for each in call.keywords if each.arg == "type")]
    return {each.value for each in kinds if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _classes(module: ModuleType) -> list[str]:
    """Return the public classes of a module in the order of its source."""
    public = [
        name
        for name in module.__all__
        if inspect.isclass(getattr(module, name)) and getattr(module, name).__module__ == module.__name__
    ]
    return sorted(public, key=lambda name: _order(module, name))


def _members_of(module: ModuleType) -> list[type]:
    return [getattr(module, name) for name in _classes(module)]


def _ordered(module: ModuleType, *, first: tuple[str, ...], skip: tuple[str, ...]) -> list[str]:
    rest = [name for name in _classes(module) if name not in (*first, *skip)]
    return [*first, *rest]


def _order(module: ModuleType, name: str) -> int:
    return next((node.lineno for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name), 0)


def _definition(cls: type) -> ast.ClassDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    if not isinstance(node, ast.ClassDef):
        raise TypeError(cls)
    return node


def _ours(cls: type) -> list[type]:
    """Return a class and its bases of agentfield, the most basic first."""
    return [each for each in reversed(cls.__mro__) if each.__module__.startswith("agentfield")]


def _fields(cls: type) -> list[tuple[str, str, str, str]]:
    """Return the fields of a class, inherited ones included: name, type, default ("" if required) and text."""
    found: dict[str, tuple[str, str, str, str]] = {}
    for each in _ours(cls):
        body = _definition(each).body
        for at, node in enumerate(body):
            match node:
                case ast.AnnAssign(target=ast.Name(id=name)):
                    after = body[at + 1] if at + 1 < len(body) else None
                    default = "" if node.value is None else _default(node.value)
                    found[name] = (name, ast.unparse(node.annotation), default, _docstring_of(after))
    return list(found.values())


def _default(node: ast.expr) -> str:
    match node:
        case ast.Call(func=ast.Name(id="field" | "Field"), keywords=keywords):
            for each in keywords:
                if each.arg in ("default", "default_factory"):
                    value = ast.unparse(each.value)
                    return (
                        value
                        if each.arg == "default"
                        else value.removeprefix("lambda: ") + ("" if "lambda" in value else "()")
                    )
            return ""
    return ast.unparse(node)


def _docstring_of(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return inspect.cleandoc(text)
    return ""


def _methods(cls: type) -> list[_Function]:
    found: dict[str, _Function] = {}
    for each in _ours(cls):
        for node in _definition(each).body:
            if isinstance(node, _Function) and (not node.name.startswith("_") or node.name == "__call__"):
                found[node.name] = node
    return list(found.values())


def _kind(cls: type) -> str | None:
    """Return the value of a message's `type`."""
    for name, _, default, _ in _fields(cls):
        if name == "type":
            return str(ast.literal_eval(default))
    return None


def _signature(node: _Function) -> str:
    """Return a method as it is written, without `self`; a property without its parentheses."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    if any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
        return f"{node.name}{result.replace(' ->', ':', 1)}"
    given = ast.unparse(node.args).removeprefix("self").removeprefix(", ").removeprefix("/, ")
    return f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}{node.name}({given}){result}"


# --- Markdown


def _paragraphs(text: str, *, indent: str = "") -> Iterator[str]:
    """Yield a docstring as Markdown: its paragraphs, and its sections as lists."""
    section = False
    for block in re.split(r"\n\s*\n", text.strip()):
        if not block.strip():
            continue
        if section or block != text.strip().split("\n\n")[0]:
            yield indent.rstrip()
        section = True
        head, _, rest = block.partition("\n")
        if re.fullmatch(r"(Args|Raises|Returns|Yields):", head) and rest:
            yield f"{indent}{head}"
            yield indent.rstrip()
            yield from (f"{indent}- {_text(item)}" for item in _items(textwrap.dedent(rest)))
        else:
            yield f"{indent}{_text(block)}"


def _items(text: str) -> list[str]:
    """Return the items of a section; continued lines are indented."""
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    return [re.sub(r"^(\*{0,2}\w+): ", r"`\1`: ", item) for item in items]


def _text(text: str) -> str:
    """Return a docstring's text on one line, as Markdown."""
    return re.sub(r"``([^`]*)``", r"`\1`", " ".join(text.split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(plugin_reference(), encoding="utf-8")
