"""Versions of the node link, the base of its frames, and the frames about a node's event loop (version 2).

The control plane offers versions in `Challenge.protocols`, the node picks one with `choose_protocol` and states it in its
hello. A version is chosen once per link; neither side sends a frame that the chosen version does not have.

Version 2: a node writes `Accepted` to the kernel before the function runs, closes its link with code 1000 only after
everything else, and a thread of the node opens a second connection, which begins with `WatchHello`, while its event loop is
blocked: it keeps the link alive (`LoopState`) and gives back what was not entered (`GiveBack`). The signatures of hello and
welcome cover the whole hello, and one signature stands for all results of a message (docs/link-signatures.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentfield.values import MAX_INTEGER

__all__ = [
    "MAX_REPORTED",
    "NODE_ID",
    "OLDEST_PROTOCOL",
    "PROOFS",
    "PROTOCOLS",
    "WATCHED",
    "Frame",
    "GiveBack",
    "GivenBack",
    "LoopState",
    "Number",
    "RunningAttempt",
    "choose_protocol",
]

PROTOCOLS = (1, 2)
"""Versions of the node link that this package speaks, in rising order."""

WATCHED = 2
"""First version in which `Accepted` precedes the function, and a watchdog reports a blocked event loop."""

PROOFS = 2
"""First version in which results carry proofs instead of signatures, and hello and welcome are signed as a whole."""

OLDEST_PROTOCOL = 1
"""Value of `Challenge.protocol`: nodes of version 1 refuse any other one."""

NODE_ID = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"

MAX_REPORTED = 50_000
"""Attempts, results and handlers, each, that a node may report; it runs 10,000 attempts at most and has 1000 waiting."""

Number = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
"""An attempt, epoch or count sent by a node; the store holds no larger number."""


def choose_protocol(offered: Iterable[int], *, newest: int = PROTOCOLS[-1]) -> int | None:
    """Return the newest of the offered versions that this package speaks, up to `newest`; None when there is none."""
    return max((version for version in PROTOCOLS if version in offered and version <= newest), default=None)


class Frame(BaseModel):
    """Base of all frames: immutable, unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class RunningAttempt(Frame):
    """An attempt of a node: one that it still runs, has entered, or whose result it keeps."""

    execution_id: str
    attempt: Number
    epoch: Number


class LoopState(Frame):
    """Duration for which the node's event loop has not turned; 0, sent over the link itself: it turns again."""

    type: Literal["loop"] = "loop"
    blocked: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Seconds."""
    function: str | None = Field(default=None, max_length=500)
    """The task that blocks it, and the source line."""


class GiveBack(Frame):
    """The node starts no attempt that it has not entered so far, until `GivenBack` with this number arrives on its link.

    Sent by the watchdog, and again over the link when the event loop turns; a number counts once.
    """

    type: Literal["give_back"] = "give_back"
    number: Number
    """Rises with each time that a node gives work back."""
    entered: tuple[RunningAttempt, ...] = Field(default=(), max_length=MAX_REPORTED)
    """Attempts that are not given back: entered, or their result is not acknowledged."""


class GivenBack(Frame):
    """Everything that was sent over this link before, and was not entered, has been taken back; what follows counts."""

    type: Literal["given_back"] = "given_back"
    number: Number
