"""Lines of an export: written one after the other and signed at the end; read back with limits, in the one order that is allowed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, get_args

from agentfield.errors import InvalidInput
from agentfield.identity import NodeKey, b64url, canonical, verify_signature
from agentfield.proof.anchors import anchor_document, rotation_document
from agentfield.proof.strict import (
    bad,
    boolean,
    hash_of,
    integer,
    members,
    parse_canonical,
    signature_of,
    text,
    time_text,
    timestamp,
)
from agentfield.proof.trees import Place

__all__ = [
    "MAX_LINE",
    "MAX_LINES",
    "ExportLines",
    "ExportWriter",
    "Header",
    "Line",
    "LineKind",
    "bounded_lines",
    "parse_header",
    "read_lines",
]

MAX_LINE = 32 * 1024 * 1024
"""Bytes of a line, with its line feed."""

MAX_LINES = 2_000_000

LineKind = Literal["header", "control_plane", "rotation", "event", "head", "credential", "anchor", "body", "end"]
_KINDS: dict[str, LineKind] = {kind: kind for kind in get_args(LineKind)}
_ORDER = {kind: place for place, kind in enumerate(get_args(LineKind))}
_ONCE = ("header", "control_plane", "end")
_END = b"agentfield/export/1\n"


class ExportWriter:
    """Writes an export, a line a call; the caller keeps the order of docs/proof-formats.md.

    Args:
        key: The issuer's key, which signs the export.
    """

    def __init__(self, key: NodeKey) -> None:
        self._key = key
        self._digest = hashlib.sha256()
        self._lines = 0
        self._last = -1

    def header(self, *, run_id: str, session_id: str | None, log_format: int, bodies: bool, at: float) -> bytes:
        """Return the first line.

        Args:
            run_id: The run.
            session_id: Its session, if it has one.
            log_format: Format of its log, 1 or 2.
            bodies: Whether bodies follow.
            at: Time of the export, in seconds since the epoch.
        """
        header = {
            "bodies": bodies,
            "exported_at": time_text(at),
            "issuer": self._key.did,
            "log_format": log_format,
            "run_id": run_id,
            "v": 1,
        }
        return self._document("header", header if session_id is None else {**header, "session_id": session_id})

    def control_plane(self, head: Mapping[str, Any]) -> bytes:
        """Return the line of the head of the control plane's log."""
        return self._document("control_plane", head)

    def rotation(self, entry: Mapping[str, Any], place: Place) -> bytes:
        """Return the line of a rotation with its place in the control plane's log."""
        return self._document("rotation", rotation_document(entry, place))

    def event(self, entry: bytes) -> bytes:
        """Return the line of an event, of which `entry` is the stored entry."""
        return self._line("event", entry)

    def head(self, head: Mapping[str, Any]) -> bytes:
        """Return the line of a head of the run."""
        return self._document("head", head)

    def credential(self, credential: bytes) -> bytes:
        """Return the line of a credential, as `issue_credential` returned it."""
        return self._line("credential", credential)

    def anchor(self, leaf: bytes, entry: Mapping[str, Any], *, batch: Place, log: Place) -> bytes:
        """Return the line of an anchor; the arguments are those of `anchor_document`."""
        return self._document("anchor", anchor_document(leaf, entry, batch=batch, log=log))

    def event_body(self, seq: int, salt: bytes, body: bytes) -> bytes:
        """Return the line of the body of an event.

        Args:
            seq: Number of the event.
            salt: The salt of the commitment.
            body: The body in canonical form.
        """
        return self._line("body", b'{"event":%d,"salt":"%b","value":%b}' % (seq, b64url(salt).encode(), body))

    def execution_body(
        self, execution_id: str, part: Literal["input", "output", "problem"], salt: bytes, body: bytes
    ) -> bytes:
        """Return the line of an input or outcome of an execution.

        Args:
            execution_id: The execution.
            part: What the body is of it.
            salt: The salt of the commitment in its credential.
            body: The body in canonical form.
        """
        start = canonical({"execution": execution_id, "part": part, "salt": b64url(salt)})
        return self._line("body", start[:-1] + b',"value":' + body + b"}")

    def end(self) -> bytes:
        """Return the last line, with the issuer's signature over all lines before it."""
        document = {"issuer": self._key.did, "lines": self._lines, "sha256": b64url(self._digest.digest())}
        return self._document("end", {**document, "signature": b64url(self._key.sign(_END + canonical(document)))})

    def _document(self, kind: LineKind, value: Any) -> bytes:
        return self._line(kind, canonical(value))

    def _line(self, kind: LineKind, content: bytes) -> bytes:
        line = b'{"%b":%b}\n' % (kind.encode(), content)
        place = _ORDER[kind]
        if place < self._last or (place == self._last and kind in _ONCE):
            raise ValueError(f"a line {kind} cannot follow {get_args(LineKind)[self._last]}")
        self._last = place
        self._digest.update(line)
        self._lines += 1
        return line


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an export, in canonical form and at an allowed place."""

    number: int
    """From 1."""
    kind: LineKind
    value: Any
    content: bytes
    """Canonical bytes of `value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of an export."""

    issuer: str
    run_id: str
    session_id: str | None
    log_format: int
    bodies: bool


def parse_header(value: Any) -> Header:
    """Return the header that the first line states.

    Raises:
        InvalidInput: It is malformed (code ``bad_document``).
    """
    members(value, "the header", ("bodies", "exported_at", "issuer", "log_format", "run_id", "v"), ("session_id",))
    if type(value["v"]) is not int or value["v"] != 1:
        bad("the version of the export is not 1")
    timestamp(value["exported_at"], "exported_at")
    log_format = integer(value["log_format"], "log_format", 1)
    if log_format > 2:
        bad("the format of the log is not 1 or 2")
    return Header(
        issuer=text(value["issuer"], "issuer"),
        run_id=text(value["run_id"], "run_id"),
        session_id=text(value["session_id"], "session_id") if "session_id" in value else None,
        log_format=log_format,
        bodies=boolean(value["bodies"], "bodies"),
    )


def read_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Yield the lines of an export; the last one is `end`, whose signature by the issuer that it names is verified.

    Args:
        lines: The lines with their line feeds, such as an open binary file; `bounded_lines` limits their length while reading.

    Raises:
        InvalidInput: A line is not canonical, too long or out of order, or the file is not signed as a whole (codes
            ``bad_document`` and ``bad_signature``).
    """
    digest, number, place = hashlib.sha256(), 0, -1
    try:
        for number, raw in enumerate(lines, start=1):
            if place == _ORDER["end"]:
                bad("a line follows the end")
            line = _read_line(number, raw, place)
            place = _ORDER[line.kind]
            if line.kind == "end":
                _verify_end(line.value, number - 1, digest.digest())
            digest.update(raw)
            yield line
        if place != _ORDER["end"]:
            number += 1
            bad("the file ends without the signature of the issuer")
    except InvalidInput as error:
        error.data.update(line=number, item=f"line {number}")
        raise


def _read_line(number: int, raw: bytes, place: int) -> Line:
    """Return a line, once it is in canonical form and may follow the kind at `place` in the order."""
    if number > MAX_LINES:
        bad(f"the file has more than {MAX_LINES} lines")
    if len(raw) > MAX_LINE:
        bad(f"the line has more than {MAX_LINE} bytes")
    if not raw.endswith(b"\n"):
        bad("the line has no line feed")
    value = parse_canonical(raw[:-1])
    name = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
    kind = _KINDS.get(name)
    if kind is None:
        bad("the line is not an object with one member that names its kind")
    if (number == 1) != (kind == "header"):
        bad("the header is the first line, and only that")
    if _ORDER[kind] < place or (_ORDER[kind] == place and kind in _ONCE):
        bad(f"a line {kind} stands behind its place")
    return Line(number, kind, value[kind], raw[len(kind) + 4 : -2])


class ExportLines:
    """The lines of an export, taken kind by kind; an error of a line is raised only when it is that line's turn.

    Args:
        lines: The raw lines.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = read_lines(lines)
        self._next: Line | None = None
        self._error: InvalidInput | None = None
        self.number = 0
        """Number of the current line."""
        self.item = "the file"
        """Name of the current line in a report."""
        self._advance()

    def take(self, kind: LineKind) -> Iterator[Line]:
        """Yield the lines of a kind that come next.

        Raises:
            InvalidInput: The next line is wrong, so that its kind is not known.
        """
        count = 0
        while True:
            if self._error is not None:
                raise self._error
            if self._next is None or self._next.kind != kind:
                return
            count += 1
            line = self._next
            self.number, self.item = line.number, f"{kind} {count}"
            yield line
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next(self._lines, None)
        except InvalidInput as error:
            self._next, self._error = None, error


def bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a binary file, and of a line that is too long no more than `MAX_LINE` bytes and one."""
    while line := file.readline(MAX_LINE + 1):
        yield line


def _verify_end(value: Any, lines: int, digest: bytes) -> None:
    members(value, "the end", ("issuer", "lines", "sha256", "signature"))
    if integer(value["lines"], "lines") != lines:
        bad(f"the end counts {value['lines']} lines, and {lines} are before it")
    if hash_of(value["sha256"], "sha256") != digest:
        bad("the lines before the end are not those that were signed")
    unsigned = {name: item for name, item in value.items() if name != "signature"}
    signature = signature_of(value["signature"], "signature")
    if not verify_signature(text(value["issuer"], "issuer"), _END + canonical(unsigned), signature):
        raise InvalidInput("The export is not signed by the issuer that it names.", code="bad_signature")
