"""What installed distributions say of themselves: their entry points, read one distribution at a time.

`importlib_metadata.entry_points` gives up on the whole environment when one distribution has metadata that cannot be
read; here only that distribution is lost. Nothing is imported to find entries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from importlib_metadata import EntryPoint, IDistribution, PackageNotFoundError, distribution, distributions

__all__ = ["COMMANDS", "PEERS", "PLUGINS", "Entry", "canonical", "installed_entries"]

PLUGINS = "agentfield.plugins"
"""Entry-point group of plugins; a value is the module of a manifest."""

COMMANDS = "agentfield.commands"
"""Entry-point group of commands of `af`; a value is ``module:app`` of a `typer.Typer`."""

PEERS = "agentfield.peers"
"""Entry-point group of the fakes that the conformance kit talks to; a name is a pair or a transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry point."""

    name: str
    distribution: str
    version: str = ""
    value: str = ""
    problem: str = ""
    """Why it cannot be loaded, where the metadata itself is damaged."""

    @property
    def module(self) -> str:
        """The module that it names."""
        return self.value.partition(":")[0].strip()

    @property
    def label(self) -> str:
        """The distribution and its version, as messages name it."""
        return f"{self.distribution} {self.version}".rstrip()

    def load(self) -> object:
        """Import what it names.

        Raises:
            Exception: Whatever the module raises; ValueError when the value is no reference.
        """
        return EntryPoint(name=self.name, value=self.value, group=PLUGINS).load()


def installed_entries(group: str) -> list[Entry]:
    """Return the entries of a group, by distribution and name.

    Of two copies of a distribution on the path the first counts, as for imports.
    """
    found: list[Entry] = []
    names = set[str]()
    for dist in distributions():
        if not _mentions(dist, group):
            continue
        try:
            names.add(canonical(dist.name))
        except Exception as error:  # noqa: BLE001 - no two ways of damaging metadata raise the same
            found.append(_damaged(_folder_name(dist), "", error))
    for name in names:
        found += _entries_of(name, group)
    return sorted(found, key=lambda entry: (entry.distribution, entry.name))


def canonical(name: str) -> str:
    """Return the name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _entries_of(name: str, group: str) -> list[Entry]:
    try:
        dist = distribution(name)
        label, version = dist.name, dist.version
    except PackageNotFoundError as error:
        return [_damaged(name, "", error)]
    try:
        points = dist.entry_points.select(group=group)
        return [Entry(name=p.name, distribution=label, version=version, value=p.value) for p in points]
    except Exception as error:  # noqa: BLE001 - the same
        return [_damaged(label, version, error)]


def _mentions(dist: IDistribution, group: str) -> bool:
    try:
        return group in (dist.read_text("entry_points.txt") or "")
    except (OSError, UnicodeDecodeError):
        path = dist.locate_file(f"{_folder_name(dist, whole=True)}/entry_points.txt")
        try:
            return group.encode() in Path(str(path)).read_bytes()
        except OSError:
            return False


def _folder_name(dist: IDistribution, *, whole: bool = False) -> str:
    folder = Path(str(getattr(dist, "_path", "unknown"))).name
    return folder if whole else folder.partition("-")[0].replace("_", "-")


def _damaged(name: str, version: str, error: Exception) -> Entry:
    problem = f"its metadata cannot be read ({type(error).__name__}): reinstall or uninstall {name}"
    return Entry(name=name, distribution=name, version=version, problem=problem)
