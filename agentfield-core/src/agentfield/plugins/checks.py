"""What a manifest must be like: every value of its declared type, every name a name, every word one that somebody declares."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

from agentfield.plugins.spec import Manifest, PairSpec, ProviderInfo, RouteInfo, TransportInfo
from agentfield.plugins.words import did_you_mean

__all__ = ["CORE_TRANSPORTS", "Words", "manifest_problem", "vocabulary_problem", "words_of"]

CORE_TRANSPORTS = (
    TransportInfo(
        name="webrtc",
        client="browser",
        media="direct",
        summary="a browser or terminal talks to the provider, the control plane carries the offer and the sideband",
    ),
    TransportInfo(
        name="websocket",
        client="server",
        media="bridged",
        summary="the control plane carries the audio both ways",
        formats=frozenset({*(f"pcm16/{rate}" for rate in (8000, 16000, 24000, 48000)), "pcmu/8000", "pcma/8000"}),
        text_input=True,
        commits=True,
        dtmf=True,
    ),
    TransportInfo(
        name="audio_turns",
        client="browser",
        media="turns",
        summary="the caller posts one recorded turn and the answer streams back",
        text_input=True,
        commits=True,
    ),
)
"""The transports that need no plugin."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\{[a-z_]+\}))+")
_PLACEHOLDER = re.compile(r"\{[a-z_]+\}")
_FORMAT = re.compile(r"(?:pcm16|pcmu|pcma)/[1-9][0-9]{3,5}")
_LEGS = {
    True: "its media is direct, so say what the caller's own line to the provider can do: client_leg='watched', for one",
    False: "only on direct media has the caller a line of its own: leave out client_leg",
}
_MAX_BODY = 25 * 1024 * 1024
_MAX_AT_ONCE = 10_000


def manifest_problem(manifest: Manifest) -> str | None:
    """Return what is wrong with a manifest taken by itself, None when nothing is."""
    misfit = _check_of(Manifest)(manifest)
    return f"manifest{misfit.where} is {misfit.what}" if misfit else _bad_words(manifest)


class _Misfit(NamedTuple):
    """How a value differs from the type that it was declared with."""

    where: str
    """Its place below what was checked, such as ``.pairs[0].media``."""
    what: str


_Check = Callable[[Any], _Misfit | None]


@cache
def _check_of(hint: Any) -> _Check:
    """Return what compares a value with a type; made once for a type, since every plugin that is loaded is compared."""
    args = get_args(hint)
    match get_origin(hint):
        case None if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return _fields_of(hint)
        case None:
            return partial(_plain, hint, (int, float) if hint is float else (hint,))
        case origin if origin is Literal:
            words = ", ".join(map(repr, args))
            return lambda value: None if value in args else _Misfit("", f"{value!r}, not one of {words}")
        case origin if origin in (tuple, frozenset):
            return _items_of(origin, _check_of(args[0]))
        case _:  # a union
            checks, names = [_check_of(arg) for arg in args], " or ".join(map(_say, args))
            return lambda value: (
                None if any(check(value) is None for check in checks) else _Misfit("", f"{value!r}, not {names}")
            )


def _plain(hint: type, kinds: tuple[type, ...], value: object) -> _Misfit | None:
    fits = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    return None if fits else _Misfit("", f"{value!r}, not {_say(hint)}")


def _fields_of(kind: type) -> _Check:
    checks = [(field.name, field.default, _check_of(cast("type", field.type))) for field in dataclasses.fields(kind)]

    def check(value: Any) -> _Misfit | None:
        if not isinstance(value, kind):
            return _Misfit("", f"{type(value).__name__}, not {kind.__name__}")
        for name, default, part in checks:
            given = getattr(value, name)
            # most are left at their default, which is ours
            if given is not default and (misfit := part(given)) is not None:
                return _Misfit(f".{name}{misfit.where}", misfit.what)
        return None

    return check


def _items_of(kind: type[Any], part: _Check) -> _Check:
    def check(value: Any) -> _Misfit | None:
        if not isinstance(value, kind):
            return _Misfit("", f"{type(value).__name__}, not {kind.__name__}")
        for number, item in enumerate(value):
            if (misfit := part(item)) is not None:
                return _Misfit(f"[{number}]{misfit.where}", misfit.what)
        return None

    return check


def _say(hint: Any) -> str:
    return "None" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _bad_words(manifest: Manifest) -> str | None:
    core = {transport.name: transport for transport in CORE_TRANSPORTS}
    infos: tuple[ProviderInfo | TransportInfo, ...] = (*manifest.providers, *manifest.transports)
    for info in infos:
        if not _NAME.fullmatch(info.name):
            return f"{info.name!r} is no name: use lower-case letters, digits, _ and -"
        if isinstance(info, TransportInfo):
            if core.get(info.name, info) != info:
                return f"it declares the transport {info.name!r} otherwise than agentfield-core does"
            if info.name not in core and (problem := _transport_problem(info)):
                return f"transport {info.name}: {problem}"
    for pair in manifest.pairs:
        if pair.bridged_from is not None:
            return f"{pair.name}: bridged_from is not for manifests; the registry writes it"
        if (pair.media == "direct") is (pair.capabilities.client_leg == "none"):
            return f"{pair.name}: {_LEGS[pair.media == 'direct']}"
        for reference in filter(None, (pair.factory, pair.options)):
            if not _REFERENCE.fullmatch(reference):
                return f"{pair.name}: {reference!r} is not of the form 'module:attribute'"
    names = [pair.name for pair in manifest.pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"it declares {', '.join(twice)} twice" if twice else None


def _transport_problem(info: TransportInfo) -> str | None:
    """Return what is wrong with a transport that a plugin brings."""
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


def _route_problem(route: RouteInfo) -> str | None:
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


class Words(NamedTuple):
    """The names that pairs may be made of."""

    providers: frozenset[str]
    transports: frozenset[str]


def words_of(manifests: Iterable[Manifest]) -> Words:
    """Return the providers and transports that manifests declare, and the transports of core."""
    every = tuple(manifests)
    transports = (*CORE_TRANSPORTS, *(info for each in every for info in each.transports))
    return Words(
        frozenset(info.name for each in every for info in each.providers),
        frozenset(info.name for info in transports),
    )


def vocabulary_problem(manifest: Manifest, words: Words) -> str | None:
    """Return which word of `manifest` nobody declares, None when all are known.

    Args:
        manifest: The one to judge.
        words: What the plugins that count declare, `manifest` among them.
    """
    return next(filter(None, (_unknown_word(pair, words) for pair in manifest.pairs)), None)


def _unknown_word(pair: PairSpec, words: Words) -> str | None:
    for kind, name, known in (
        ("provider", pair.provider, words.providers),
        ("transport", pair.transport, words.transports),
    ):
        if name not in known:
            return f"{pair.name}: nothing installed declares {kind} {name!r}.{did_you_mean(name, known)}"
    return None
