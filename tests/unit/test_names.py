"""Identifiers, modules and fixtures use the terms of the field; names that only this project understood stay out."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.paths import ROOT

PARTS = frozenset("desk seat till house door room tape pen manners".split())  # noqa: SIM905 -- a list of words
"""Words that no identifier has as a part, in CamelCase or snake_case, in singular or plural."""

NAMES = frozenset(
    """
    Board Breaks CallLine Carriage Chain Cut Door Ear EarlyWords Ears Fenced HandlerDesk HandlerLine Happened Held House
    Intruders KnownNodes Later Ledger Life LinkBook Mouth Observers Orders Parked Passage Pen Placement Room Settle Stage
    Stalls Station Story Talk Till Timekeeper TokenDesk ToolDesk Traffic TransportRoom TurnBook TurnDesk TurnLeg TurnTape
    Used Wish
    """.split()  # noqa: SIM905 -- a list of words
)
"""Classes that have another name now; a leading underscore does not make them another one."""

VARIABLES = frozenset("board carriage intruders ledger linkbook stalls timekeeper wish".split())  # noqa: SIM905 -- a list of words
"""What their instances were called."""

MODULES = frozenset(
    """
    asking audio_room board book bridging calling callline carriage contributed costs dialling handlerdesk handlerline hearing heap
    intruder ledger life orders seats strangers times toolcalls turndesk turnleg turntape
    """.split()  # noqa: SIM905 -- a list of words
)
"""Modules and packages of the distributions that have another name now."""

ALLOWED: dict[str, str] = {}
"""Identifiers that stay, at most ten, each with its reason."""

_TOP = ("agentfield-*/src", "benchmarks", "examples", "tests", "noxfile.py")
_SKIPPED = {"__pycache__", "node_modules", ".venv", ".agentfield"}
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


def sources(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the Python files below these paths."""
    for path in paths:
        found = [path] if path.is_file() else sorted(path.rglob("*.py"))
        yield from (file for file in found if file.suffix == ".py" and not _SKIPPED & set(file.parts))


def is_banned(identifier: str) -> bool:
    """Tell whether an identifier is, or contains, a name that must not be used."""
    if identifier in ALLOWED:
        return False
    bare = identifier.strip("_")
    words = {word.lower() for word in _WORD.findall(bare)}
    parts = {part for word in words for part in (word, word.removesuffix("s"))}
    return bare in NAMES or bare in VARIABLES or bool(parts & PARTS)


def offenders(paths: Iterable[Path]) -> Iterator[str]:
    """Yield each banned identifier with its place, such as ``tests/x.py:3: desk``."""
    for path in sources(paths):
        place = path.relative_to(ROOT)
        ours = place.parts[0].startswith("agentfield-")
        for part in place.with_suffix("").parts:
            bare = part.removeprefix("test_")
            if part not in ALLOWED and ((ours and bare in MODULES) or is_banned(bare)):
                yield f"{place}:0: {part}"
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.NAME and is_banned(token.string):
                yield f"{place}:{token.start[0]}: {token.string}"


def test_identifiers_use_the_terms_of_the_field() -> None:
    """No module, class, function, variable or fixture carries a name of the list."""
    found = list(offenders(path for pattern in _TOP for path in sorted(ROOT.glob(pattern))))
    assert not found, "\n".join(found)


def test_the_exceptions_are_few_and_have_reasons() -> None:
    """At most ten identifiers are exempt; each says why and still occurs."""
    assert len(ALLOWED) <= 10
    assert all(ALLOWED.values())
    text = "\n".join(file.read_text(encoding="utf-8") for file in sources(ROOT.glob("agentfield-*/src")))
    assert [name for name in ALLOWED if name not in text] == []


def test_the_check_sees_parts_of_names() -> None:
    """Parts, plurals and underscores count; longer words that contain them do not."""
    assert all(map(is_banned, ("ToolDesk", "desk_agent", "_seats", "openHouse", "_Station", "ledger", "HTTPDoor")))
    assert not any(map(is_banned, ("reopen", "helpdesk_agent", "keyboard", "MiddlewareChain", "warehouse", "still")))
