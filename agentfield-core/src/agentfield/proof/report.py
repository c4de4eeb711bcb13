"""The outcome of a verification: the verdict, what was found and compared, the first wrong item, and what was not checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["HeldHead", "Problem", "Report", "Verdict"]

Verdict = Literal["complete", "prefix", "wrong", "consistent", "valid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The first wrong item, and why it is wrong."""

    line: int | None
    """Line of the file, from 1; None if the file as a whole is wrong."""
    item: str
    why: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldHead:
    """A head that the verifier held, and how it was compared."""

    log: str
    size: int
    state: Literal["consistent", "not checked"]


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome of a verification."""

    kind: Literal["export", "credential", "head"]
    verdict: Verdict = "wrong"
    """`complete`: a final head covers all events and credentials. `prefix`: no final head does. `wrong`: see `problem`.
    `consistent`: nothing is wrong, but no issuer was given to compare with. `valid`: a single document of the given issuer."""
    issuer: str | None = None
    """The issuer that the file names; compared with the given one unless the verdict is `consistent`."""
    pinned: bool = False
    """Whether the issuer was given."""
    run_id: str | None = None
    session_id: str | None = None
    events: int = 0
    heads: int = 0
    credentials: int = 0
    bodies: int = 0
    covered: int = 0
    """Events that the last head covers."""
    final: bool = False
    """Whether a final head covers all events and credentials."""
    anchored: int | None = None
    """Number of the entry of the control plane's log that anchors the last anchored head."""
    node_proofs: dict[str, int] = field(default_factory=dict)
    """Verified proofs by the DID of their node."""
    without_node: int = 0
    """Credentials of calls and tool calls that no node signed."""
    held: list[HeldHead] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    """Checks that were left out for want of something that was not given."""
    problem: Problem | None = None

    def document(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return asdict(self)
