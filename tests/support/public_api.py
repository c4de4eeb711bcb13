"""The public API as text: signatures and fields of all names that users and plugin authors import.

Run as a script, it writes the snapshot that `tests/unit/test_public_api.py` compares. The text is taken from the source, so it does
not depend on the version of Python.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

__all__ = ["COMMAND", "SNAPSHOT", "public_api"]

SNAPSHOT = Path(__file__).resolve().parents[1] / "public_api.txt"
COMMAND = "uv run python tests/support/public_api.py"
"""Command that regenerates the snapshot, in the root of the checkout."""

PACKAGES = ("agentfield.adapterkit", "agentfield.realtime")
"""Packages of which each module is public."""
MODULES = (
    "agentfield",
    "agentfield.client",
    "agentfield.errors",
    "agentfield.plugins",
    "agentfield.testing",
    "agentfield.testing.peer",
    "agentfield.testing.scripted",
    "agentfield_server.testing.pytest_plugin",
    "agentfield_server.testing.caller",
    "agentfield_server.testing.clock",
    "agentfield_server.testing.expectations",
)
INTERNAL = frozenset({"agentfield.realtime.gc_tuning"})
"""Modules of `PACKAGES` that only the control plane uses."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_api() -> str:
    """Return the public API as text: a section per module, an entry per name of its `__all__`.

    A class shows the members that it inherits, unless its base class has an entry of its own.
    """
    modules = [importlib.import_module(name) for name in _module_names()]
    public = {value for module in modules for name in module.__all__ if inspect.isclass(value := getattr(module, name))}
    return "\n".join(line for module in modules for line in _module(module, public))


def _module_names() -> list[str]:
    names = set(MODULES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names |= {f"{package}.{info.name}" for info in pkgutil.iter_modules(path)}
    return sorted(names - INTERNAL)


def _module(module: ModuleType, public: set[type]) -> Iterator[str]:
    yield f"## {module.__name__}"
    yield ""
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.isclass(value):
            yield from _class(name, value, public)
        else:
            yield from _other(module, name, value)
        yield ""


def _class(name: str, cls: type, public: set[type]) -> Iterator[str]:
    node = _definition(cls.__module__, cls.__name__)
    if not isinstance(node, ast.ClassDef):
        yield f"{name} = {cls.__module__}.{cls.__name__}"
        return
    bases = [*map(ast.unparse, node.bases), *(f"{each.arg}={ast.unparse(each.value)}" for each in node.keywords)]
    for decorator in node.decorator_list:
        yield f"@{ast.unparse(decorator)}"
    yield f"class {name}({', '.join(bases)})" if bases else f"class {name}"
    members: dict[str, list[str]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0].startswith("agentfield") and (base is cls or base not in public):
            definition = _definition(base.__module__, base.__name__)
            if isinstance(definition, ast.ClassDef):
                members.update(_members(definition))
    for lines in members.values():
        yield from (f"    {line}" for line in lines)


def _members(node: ast.ClassDef) -> Iterator[tuple[str, list[str]]]:
    """Yield the public fields and methods of a class in source order, with the attributes that its constructor sets."""
    for each in node.body:
        match each:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                yield name, [ast.unparse(each)]
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_") and name != "model_config":
                yield name, [ast.unparse(each)]
            case ast.FunctionDef() | ast.AsyncFunctionDef() if each.name == "__init__":
                yield each.name, _function(each)
                yield from _attributes(each)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if _is_public_method(each.name):
                yield each.name, _function(each)


def _attributes(init: _Function) -> Iterator[tuple[str, list[str]]]:
    for each in ast.walk(init):
        target: ast.expr | None = None
        annotation = ""
        if isinstance(each, ast.AnnAssign):
            target, annotation = each.target, f": {ast.unparse(each.annotation)}"
        elif isinstance(each, ast.Assign):
            target = each.targets[0]
        match target:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if not name.startswith("_"):
                yield name, [f"self.{name}{annotation}"]


def _is_public_method(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name != "__init_subclass__")


def _function(node: _Function) -> list[str]:
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    decorators = [f"@{ast.unparse(each)}" for each in node.decorator_list]
    return [*decorators, f"{keyword} {node.name}({ast.unparse(node.args)}){result}"]


def _other(module: ModuleType, name: str, value: object) -> Iterator[str]:
    """Yield a function, constant or type alias, from the module that defines it."""
    for place in (module.__name__, getattr(value, "__module__", None), *_import_sources(module.__name__, name)):
        node = _definition(place, name) if place else None
        if isinstance(node, _Function):
            yield from _function(node)
            return
        if node is not None:
            yield from textwrap.shorten(ast.unparse(node), 400, placeholder=" ...").splitlines()
            return
    yield f"{name}: {type(value).__name__}"


def _import_sources(module: str, name: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names) and node.module:
            yield node.module


def _definition(module: str, name: str) -> ast.stmt | None:
    for node in _tree(module).body:
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found):
                pass
            case ast.AnnAssign(target=ast.Name(id=found)) | ast.Assign(targets=[ast.Name(id=found)]):
                pass
            case _:
                continue
        if found == name:
            return node
    return None


def _tree(module: str) -> ast.Module:
    file = getattr(sys.modules.get(module) or importlib.import_module(module), "__file__", None)
    return ast.parse(Path(file).read_text(encoding="utf-8")) if file and file.endswith(".py") else ast.Module([], [])


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api(), encoding="utf-8")
