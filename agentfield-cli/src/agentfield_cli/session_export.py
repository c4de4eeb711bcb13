"""The export of a session, written to a file or to standard output while it arrives."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from agentfield.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient

__all__ = ["write_export"]

_END = b'{"end":'


async def write_export(
    client: ControlPlaneClient, name: str, path: Path | None, *, bodies: bool = True
) -> dict[str, int]:
    """Write the export of a session or run; return the numbers of its `lines` and `bytes`.

    A file appears under its name only when the export is whole.

    Args:
        client: The client of the control plane.
        name: Id of the session, or of a run (``run_…``).
        path: The file; None for standard output.
        bodies: Whether the export has bodies and salts.

    Raises:
        InvalidInput: The file cannot be written (code `not_writable`).
        Unavailable: The export broke off before its signature (code `export_incomplete`).
    """
    draft = None if path is None else path.with_name(f".{path.name}.part")
    try:
        with _opened(draft) as file:
            export = client.export_run if name.startswith("run_") else client.export_session
            counted = await _copy(export(name, bodies=bodies), file)
        if draft is not None and path is not None:
            draft.replace(path)
    except OSError as error:
        raise InvalidInput(
            f"The export cannot be written to {path or 'standard output'}: {error.strerror or error}.",
            code="not_writable",
            hint="give another file with -o, in a folder that exists",
        ) from error
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
    return counted


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as file:
        yield file


async def _copy(chunks: AsyncIterator[bytes], file: IO[bytes]) -> dict[str, int]:
    lines = size = 0
    tail = b""
    async for chunk in chunks:
        file.write(chunk)
        lines, size = lines + chunk.count(b"\n"), size + len(chunk)
        tail = (tail + chunk)[-4096:]
    last = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    if not tail.endswith(b"\n") or not last.startswith(_END):
        raise Unavailable(
            "The export broke off before its signature.",
            code="export_incomplete",
            hint="try again; the control plane's log has the reason",
        )
    return {"lines": lines, "bytes": size}
