"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "Url"]

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where the control plane is; else AGENTFIELD_URL, else the one that runs on this machine.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (errors: a problem document).")]
