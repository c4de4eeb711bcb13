"""The border for values: what JSON and the event log can hold, and the canonical bytes of a value that passed.

Values from outside go in; the same values with their canonical bytes come out, or a refusal with a path. Read `border`, then
`schema_places`, which finds the parts of a value that a JSON Schema declares as integers.
"""

from __future__ import annotations

from agentfield.values.border import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_INTEGER,
    Encoded,
    Untyped,
    clean_text,
    encode,
    encode_off_loop,
    is_large,
    load_canonical,
    nearest,
    parse,
    restore_integers,
    unrepresentable,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_INTEGER",
    "Encoded",
    "Untyped",
    "clean_text",
    "encode",
    "encode_off_loop",
    "is_large",
    "load_canonical",
    "nearest",
    "parse",
    "restore_integers",
    "unrepresentable",
]
