"""Source of the policies: a file or the store. Watched: a change is in force within a second, an unreadable source closes."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable
from pathlib import Path

from agentfield.errors import AgentFieldError, Conflict, InvalidInput
from agentfield_server.access.admission import AccessControl
from agentfield_server.access.policies import PolicySet
from agentfield_server.access.policy_file import MAX_DOCUMENT, parse_policies
from agentfield_server.access.principals import Principal
from agentfield_server.store.access import AccessStore, PolicyRow

__all__ = ["PolicySource"]

_log = logging.getLogger("agentfield.access")

INTERVAL = 0.5
"""Seconds between two looks at the source."""


class PolicySource:
    """Puts policies in force. Each version is a row of the store; decisions record its number.

    Args:
        store: Keeps the versions.
        access: Decides by them.
        file: The file of `AGENTFIELD_POLICIES`; without one, the policies of the store hold, and REST may write them.
        changed: Called after another version is in force.
    """

    def __init__(
        self, store: AccessStore, access: AccessControl, *, file: Path | None, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._access = access
        self._file = file
        self._changed = changed
        self._failing: str | None = None
        self.row: PolicyRow | None = None
        """The version in force; None for no policies."""

    async def load(self) -> None:
        """Put the policies in force.

        Raises:
            InvalidInput: The file cannot be read, or is not a document of policies (code `bad_policies`).
        """
        await self._read()
        self._access.policies_were_read()

    async def replace(self, document: str, *, by: Principal) -> PolicyRow:
        """Put another document of the store in force.

        Raises:
            Conflict: The policies come from a file (code `policies_in_file`).
            InvalidInput: The document is not one of policies (code `bad_policies`).
        """
        if self._file is not None:
            raise Conflict(
                f"The policies of this control plane come from {self._file}.",
                code="policies_in_file",
                hint="change that file; the change is in force within a second",
            )
        parsed = parse_policies(document, source="the request")
        row = await self._store.set_policy("store", document, by=by.id)
        self._put(row, PolicySet(row.version, parsed))
        return row

    async def watch(self) -> None:
        """Look at the source until cancelled; without a readable one for 10 s, nothing new is admitted."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._read()
            except Exception as error:  # noqa: BLE001 - whatever makes it unreadable, the watch goes on
                why = error.message if isinstance(error, AgentFieldError) else repr(error)
                if self._failing != why:
                    _log.error("%s The version in force stays for 10 s; then nothing new is started.", why)
                self._failing = why
            else:
                if self._failing is not None:
                    _log.warning("the policies can be read again")
                self._failing = None
                self._access.policies_were_read()

    async def _read(self) -> None:
        if self._file is None:
            row = await self._store.policy_in_force()
            if row is None:
                return
        else:
            document = await asyncio.to_thread(_read_file, self._file)
            if self.row is not None and (self.row.source, self.row.document) == ("file", document):
                return
            parsed = parse_policies(document, source=str(self._file))
            row = await self._store.set_policy("file", document, by="file")
            self._put(row, PolicySet(row.version, parsed))
            return
        if self.row is None or row.version != self.row.version:
            self._put(row, PolicySet(row.version, parse_policies(row.document, source="the store")))

    def _put(self, row: PolicyRow, policies: PolicySet) -> None:
        self.row = row
        self._access.put_in_force(policies)
        _log.info("policies of version %d are in force: %d rules", row.version, len(policies.rules))
        self._changed()


def _read_file(path: Path) -> str:
    hint = "set AGENTFIELD_POLICIES to a readable TOML file"
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # a pipe would block, a device would never end
            raise InvalidInput(
                f"The policies in {path} cannot be read: it is no regular file.", code="bad_policies", hint=hint
            )
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_DOCUMENT + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(
            f"The policies in {path} cannot be read: {why}.",
            code="bad_policies",
            hint=hint,
        ) from None
