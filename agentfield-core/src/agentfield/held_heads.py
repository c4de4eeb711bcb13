"""Signed heads of sessions, as this node holds them: each new one must continue the one before, or the log was rewritten.

The last head of a session is kept in ``AGENTFIELD_HOME/heads/SESSION.json``, for ``af verify FILE --head``. A head that does not
continue it is kept beside it: the two prove the fork, since the issuer signed both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.identity import canonical, unb64url
from agentfield.proof import Head, parse_head, verify_consistency
from agentfield.settings import private_folder

__all__ = ["HeldHeads"]

_log = logging.getLogger("agentfield.node")

_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MAX_SESSIONS = 1000
"""Sessions of which a head is held; those that were heard of first are forgotten."""


class HeldHeads:
    """The last heads of the sessions that this node handles.

    Args:
        folder: The folder that keeps them; None keeps them in this process only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: OrderedDict[str, Head] = OrderedDict()
        self.forks: list[tuple[str, Head, Head]] = []
        """Session, held head and the head that contradicts it."""

    def take(self, session_id: str, event: Mapping[str, Any]) -> None:
        """Take a head that the control plane sent; report a fork and keep both heads.

        Args:
            session_id: The session.
            event: The event `log.head`: `head`, and with `since` the proof `consistency` from that size.
        """
        try:
            document = canonical(event["head"])
            head = parse_head(document)
            proof = [unb64url(node) for node in event.get("consistency", ())]
        except (InvalidInput, KeyError, TypeError) as error:
            _log.warning("a head of session %s is malformed and was not taken: %s", session_id, error)
            return
        held = self._held.get(session_id) or self._read(session_id)
        if held is None:
            self._keep(session_id, head, document)
        elif held.coverage.size == event.get("since", held.coverage.size) or head.coverage.size <= held.coverage.size:
            if _continues(held, head, proof):
                self._keep(session_id, head, document)
            else:
                self._report(session_id, held, head, document)
        else:
            # a head in between was lost with a link: nothing proves that this one continues the held one
            self._set_aside(session_id, held.coverage.size)
            self._keep(session_id, head, document)

    def last(self, session_id: str) -> Head | None:
        """Return the head that is held of a session."""
        return self._held.get(session_id) or self._read(session_id)

    def _keep(self, session_id: str, head: Head, document: bytes) -> None:
        if session_id not in self._held:
            self._forget_old_files()
        self._held[session_id] = head
        self._held.move_to_end(session_id)
        if len(self._held) > _MAX_SESSIONS:
            self._held.popitem(last=False)
        self._write(session_id, document)
        if head.coverage.final and self._folder is not None:
            del self._held[session_id]  # the file has it

    def _report(self, session_id: str, held: Head, head: Head, document: bytes) -> None:
        self.forks.append((session_id, held, head))
        self._write(f"{session_id}-fork-{head.coverage.size}", document)
        _log.error(
            "the log of session %s was rewritten: the head over %d events does not continue the one over %d that this node holds, "
            "and the control plane signed both",
            session_id,
            head.coverage.size,
            held.coverage.size,
        )

    def _read(self, session_id: str) -> Head | None:
        """Return the head that an earlier process has kept, or one of a session that is over."""
        if self._folder is None or not _FILE_NAME.fullmatch(session_id):
            return None
        try:
            return parse_head((self._folder / f"{session_id}.json").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, InvalidInput) as error:
            _log.warning("the head of session %s in %s cannot be read: %s", session_id, self._folder, error)
            return None

    def _write(self, name: str, document: bytes) -> None:
        if self._folder is None or not _FILE_NAME.fullmatch(name):
            return
        try:
            private_folder(self._folder)
            draft = self._folder / f".{secrets.token_hex(8)}"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(document)
            draft.replace(self._folder / f"{name}.json")
        except OSError as error:
            _log.warning("a head of a session cannot be kept in %s: %s", self._folder, error)

    def _set_aside(self, session_id: str, size: int) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                file = self._folder / f"{session_id}.json"
                file.replace(self._folder / f"{session_id}-{size}.json")

    def _forget_old_files(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                files = sorted(self._folder.glob("*.json"), key=lambda each: each.stat().st_mtime)
                for old in files[:-_MAX_SESSIONS]:
                    old.unlink(missing_ok=True)


def _continues(held: Head, head: Head, proof: list[bytes]) -> bool:
    old, new = held.coverage, head.coverage
    return head.log == held.log and verify_consistency(old.size, old.root, new.size, new.root, proof)
