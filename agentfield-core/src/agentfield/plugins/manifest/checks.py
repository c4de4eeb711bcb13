"""Checks of a manifest: types of values, syntax of names and references, and pairs of declared names only."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS
from agentfield.plugins.manifest.spec import Manifest, PairSpec, ProviderSpec, RouteSpec, TransportSpec
from agentfield.plugins.wording import did_you_mean

__all__ = ["DeclaredNames", "declared_names", "manifest_problem", "undeclared_name_problem"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\{[a-z_]+\}))+")
_PLACEHOLDER = re.compile(r"\{[a-z_]+\}")
_FORMAT = re.compile(r"(?:pcm16|pcmu|pcma)/[1-9][0-9]{3,5}")
_CLIENT_LEG_PROBLEMS = {
    True: "its media is direct, so declare what the caller's own connection to the provider can change, such as client_leg='watched'",
    False: "client_leg is for direct media only: leave it out",
}
_MAX_BODY = 25 * 1024 * 1024
_MAX_AT_ONCE = 10_000


def manifest_problem(manifest: Manifest) -> str | None:
    """Return the first problem of a manifest by itself, None when there is none."""
    mismatch = _check_of(Manifest)(manifest)
    return f"manifest{mismatch.path} is {mismatch.problem}" if mismatch else _declaration_problem(manifest)


class _TypeMismatch(NamedTuple):
    """A value that does not have its declared type."""

    path: str
    """Path below the checked value, such as ``.pairs[0].media``."""
    problem: str


_Check = Callable[[Any], _TypeMismatch | None]


@cache
def _check_of(hint: Any) -> _Check:
    """Return the check of a type; cached, since each loaded plugin is checked."""
    args = get_args(hint)
    match get_origin(hint):
        case None if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return _fields_of(hint)
        case None:
            return partial(_plain, hint, (int, float) if hint is float else (hint,))
        case origin if origin is Literal:
            values = ", ".join(map(repr, args))
            return lambda value: None if value in args else _TypeMismatch("", f"{value!r}, not one of {values}")
        case origin if origin in (tuple, frozenset):
            return _items_of(origin, _check_of(args[0]))
        case _:  # a union
            checks, names = [_check_of(arg) for arg in args], " or ".join(map(_say, args))
            return lambda value: (
                None if any(check(value) is None for check in checks) else _TypeMismatch("", f"{value!r}, not {names}")
            )


def _plain(hint: type, kinds: tuple[type, ...], value: object) -> _TypeMismatch | None:
    fits = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    return None if fits else _TypeMismatch("", f"{value!r}, not {_say(hint)}")


def _fields_of(kind: type) -> _Check:
    checks = [(field.name, field.default, _check_of(cast("type", field.type))) for field in dataclasses.fields(kind)]

    def check(value: Any) -> _TypeMismatch | None:
        if not isinstance(value, kind):
            return _TypeMismatch("", f"{type(value).__name__}, not {kind.__name__}")
        for name, default, part in checks:
            given = getattr(value, name)
            # most fields have their default, which needs no check
            if given is not default and (mismatch := part(given)) is not None:
                return _TypeMismatch(f".{name}{mismatch.path}", mismatch.problem)
        return None

    return check


def _items_of(kind: type[Any], part: _Check) -> _Check:
    def check(value: Any) -> _TypeMismatch | None:
        if not isinstance(value, kind):
            return _TypeMismatch("", f"{type(value).__name__}, not {kind.__name__}")
        for number, item in enumerate(value):
            if (mismatch := part(item)) is not None:
                return _TypeMismatch(f"[{number}]{mismatch.path}", mismatch.problem)
        return None

    return check


def _say(hint: Any) -> str:
    return "None" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _declaration_problem(manifest: Manifest) -> str | None:
    core = {transport.name: transport for transport in CORE_TRANSPORTS}
    infos: tuple[ProviderSpec | TransportSpec, ...] = (*manifest.providers, *manifest.transports)
    for info in infos:
        if not _NAME.fullmatch(info.name):
            return f"{info.name!r} is no name: use lower-case letters, digits, _ and -"
        if isinstance(info, TransportSpec):
            if core.get(info.name, info) != info:
                return f"it declares the transport {info.name!r} differently from agentfield-core"
            if info.name not in core and (problem := _transport_problem(info)):
                return f"transport {info.name}: {problem}"
        elif twice := _twice([spec.model for spec in info.model_specs]):
            return f"provider {info.name}: model_specs has {', '.join(twice)} twice"
    for pair in manifest.pairs:
        if pair.bridged_from is not None:
            return f"{pair.name}: bridged_from is not for manifests; the registry writes it"
        if (pair.media == "direct") is (pair.capabilities.client_leg == "none"):
            return f"{pair.name}: {_CLIENT_LEG_PROBLEMS[pair.media == 'direct']}"
        if problem := _capabilities_problem(pair):
            return f"{pair.name}: {problem}"
        for reference in filter(None, (pair.factory, pair.options)):
            if not _REFERENCE.fullmatch(reference):
                return f"{pair.name}: {reference!r} is not of the form 'module:attribute'"
    twice = _twice([pair.name for pair in manifest.pairs])
    return f"it declares {', '.join(twice)} twice" if twice else None


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _capabilities_problem(pair: PairSpec) -> str | None:
    """Return the first contradiction in the capabilities of a pair, None when there is none."""
    can = pair.capabilities
    if can.transcription == "own" and can.default_transcription is not None:
        return "its provider transcribes without a model that could be named (transcription='own'), so leave out default_transcription"
    if pair.media == "direct" and (can.output_formats or can.resumption == "handle"):
        return (
            "its media is direct: output_formats and resumption='handle' are for media that the control plane carries"
        )
    for name in (*sorted(can.formats), *sorted(can.output_formats)):
        if not _FORMAT.fullmatch(name):
            return f"{name!r} is no audio format: write pcm16/16000, pcmu/8000 or pcma/8000"
    return None


def _transport_problem(info: TransportSpec) -> str | None:
    """Return the first problem of a plugin's transport, None when there is none."""
    if info.factory is None:
        return "it declares routes and no factory that serves them" if info.routes else None
    if not _REFERENCE.fullmatch(info.factory):
        return f"{info.factory!r} is not of the form 'module:attribute'"
    if info.media == "bridged" and not info.formats:
        return "its media is bridged and it names no formats"
    for name in info.formats:
        if not _FORMAT.fullmatch(name):
            return f"{name!r} is no audio format: write pcm16/16000, pcmu/8000 or pcma/8000"
    seen = set[tuple[str, str]]()
    for route in info.routes:
        if problem := _route_problem(route):
            return f"route {route.method} {route.path}: {problem}"
        answers = (route.method, _PLACEHOLDER.sub("{}", route.path))
        if answers in seen:
            return f"route {route.method} {route.path} is declared twice"
        seen.add(answers)
    return None


def _route_problem(route: RouteSpec) -> str | None:
    if not _PATH.fullmatch(route.path):
        return "a path is made of /words and /{placeholders}"
    placeholders = _PLACEHOLDER.findall(route.path)
    if twice := next((name for name in placeholders if placeholders.count(name) > 1), None):
        return f"{twice} is in its path twice"
    if route.socket and route.method != "GET":
        return "a WebSocket is opened with GET"
    if not route.handler.isidentifier() or route.handler.startswith("_"):
        return f"{route.handler!r} is no name of a public method"
    if route.access == "session" and "{session_id}" not in route.path:
        return "a route of access 'session' has {session_id} in its path"
    if not 0 < route.max_body <= _MAX_BODY or not 0 < route.at_once <= _MAX_AT_ONCE:
        return f"max_body is 1 to {_MAX_BODY} and at_once 1 to {_MAX_AT_ONCE}"
    return None


class DeclaredNames(NamedTuple):
    """Names that pairs may use."""

    providers: frozenset[str]
    transports: frozenset[str]


def declared_names(manifests: Iterable[Manifest]) -> DeclaredNames:
    """Return the names of the providers and transports of manifests, and of the core transports."""
    manifests = tuple(manifests)
    transports = (*CORE_TRANSPORTS, *(info for each in manifests for info in each.transports))
    return DeclaredNames(
        frozenset(info.name for each in manifests for info in each.providers),
        frozenset(info.name for info in transports),
    )


def undeclared_name_problem(manifest: Manifest, declared: DeclaredNames) -> str | None:
    """Return the first use of a provider or transport that no plugin declares, None when there is none.

    Args:
        manifest: The manifest to check.
        declared: The names that usable plugins declare, those of `manifest` among them.
    """
    return next(filter(None, (_undeclared_name(pair, declared) for pair in manifest.pairs)), None)


def _undeclared_name(pair: PairSpec, declared: DeclaredNames) -> str | None:
    for kind, name, known in (
        ("provider", pair.provider, declared.providers),
        ("transport", pair.transport, declared.transports),
    ):
        if name not in known:
            return f"{pair.name}: nothing installed declares {kind} {name!r}.{did_you_mean(name, known)}"
    return None
