"""DIDs of control planes: remembered at the first link to an address, or given by the setting; another one is refused.

A file for each address, ``AGENTFIELD_HOME/control_planes/HOST:PORT``, shared by the nodes of a machine.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from urllib.parse import quote, urlsplit

from agentfield.errors import NodeRefused
from agentfield.settings import private_folder

__all__ = ["KnownControlPlanes"]

_log = logging.getLogger("agentfield.node")

_MAX_FILES = 1000
"""Addresses that are remembered; those that were learned first are forgotten."""


class KnownControlPlanes:
    """The control planes that a node links to.

    Args:
        folder: Where they are remembered between processes; None remembers them in this one only.
        required: The DID that any of them must have, None to remember the first one of each address.
    """

    def __init__(self, folder: Path | None = None, *, required: str | None = None) -> None:
        self._folder = folder
        self._required = required
        self._known: dict[str, str] = {}

    def check(self, url: str, did: str | None) -> None:
        """Check the DID that a control plane states; None for one that speaks version 1 only.

        Raises:
            NodeRefused: It is not the one that is known or required (code `control_plane_changed`).
        """
        expected = self._required or self._known.get(url) or self._read(url)
        if expected is None or expected == did:
            return
        stated = f"states {did}" if did else "states none: it speaks version 1 of the node link only"
        if self._required:
            hint = (
                "set AGENTFIELD_CONTROL_PLANE_DID to the right one, or AGENTFIELD_URL to the control plane that has it"
            )
        else:
            hint = "if the control plane was set up anew, forget the old one" + (
                f": rm '{self._file(url)}'" if self._folder else ": start this node again"
            )
        raise NodeRefused(
            f"The control plane at {url} is another one than before: this node expects the DID {expected}, it {stated}.",
            code="control_plane_changed",
            hint=hint,
            url=url,
        )

    def remember(self, url: str, did: str) -> None:
        """Remember the DID of a control plane that has proven it."""
        if self._known.get(url) == did:
            return
        self._known[url] = did
        if self._folder is None or self._required or self._read(url) == did:
            return
        try:
            self._write(url, did)
        except OSError as error:
            _log.warning("the control plane at %s will be taken for new by the next process: %s", url, error)

    def _read(self, url: str) -> str | None:
        if self._folder is None:
            return None
        try:
            return self._file(url).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            # not taken for unknown: whoever makes the file unreadable must not change what is trusted
            raise NodeRefused(
                f"What is known of the control plane at {url} cannot be read: {error}.",
                code="control_plane_changed",
                hint=f"rm '{self._file(url)}'",
                url=url,
            ) from error

    def _write(self, url: str, did: str) -> None:
        file = self._file(url)
        private_folder(file.parent)
        others = sorted(file.parent.iterdir(), key=lambda other: other.stat().st_mtime)
        for old in others[: max(0, len(others) - _MAX_FILES + 1)]:
            old.unlink(missing_ok=True)
        draft = file.with_name(f".{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as text:
            text.write(did + "\n")
        draft.replace(file)

    def _file(self, url: str) -> Path:
        parts = urlsplit(url)
        name = quote(f"{parts.netloc}{parts.path.rstrip('/')}", safe=":[]" if os.name == "posix" else "")
        return (self._folder or Path()) / name[:200]
