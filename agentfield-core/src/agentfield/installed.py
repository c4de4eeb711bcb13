"""What installed distributions say of themselves: their entry points, read one distribution at a time.

`importlib_metadata.entry_points` gives up on the whole environment when one distribution has metadata that cannot be
read; here only that distribution is lost. Nothing is imported to find entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from importlib_metadata import EntryPoint, IDistribution, distributions

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
    seen = set[str]()
    for dist in distributions():
        folder = _folder(dist)
        name = canonical(folder.partition("-")[0])
        if name not in seen:
            seen.add(name)
            found += _entries_of(dist, folder, group)
    return sorted(found, key=lambda entry: (entry.distribution, entry.name))


def canonical(name: str) -> str:
    """Return the name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _entries_of(dist: IDistribution, folder: str, group: str) -> list[Entry]:
    label, version = folder.partition("-")[0].replace("_", "-"), ""
    try:
        text = dist.read_text("entry_points.txt")
    except UnicodeDecodeError as error:
        data = Path(str(dist.locate_file(f"{folder}/entry_points.txt"))).read_bytes()
        return [_damaged(label, version, error)] if group.encode() in data else []
    if text is None or group not in text:
        return []
    try:
        label, version = _name_and_version(dist)
        return [Entry(name=n, distribution=label, version=version, value=v) for n, v in _section(text, group)]
    except Exception as error:  # noqa: BLE001 - no two ways of damaging metadata raise the same
        return [_damaged(label, version, error)]


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of a group, as the specification of entry points writes them."""
    current = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("[") and line.endswith("]"):
            current = line[1:-1].strip()
        elif current == group and not line.startswith(("#", ";")):
            name, equals, value = line.partition("=")
            if not equals:
                raise ValueError(line)
            yield name.strip(), value.strip()


def _name_and_version(dist: IDistribution) -> tuple[str, str]:
    """Return both from the head of the metadata: the whole of it, with the description, takes a hundred times as long."""
    head = (dist.read_text("METADATA") or "").partition("\n\n")[0].splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in reversed(head))}
    if "Name" in fields and "Version" in fields:
        return fields["Name"], fields["Version"]
    return dist.name, dist.version  # an egg, or something that is damaged and says how


def _folder(dist: IDistribution) -> str:
    """Return the name of the folder of the metadata; "" where there is none."""
    return Path(str(getattr(dist, "_path", ""))).name


def _damaged(name: str, version: str, error: Exception) -> Entry:
    problem = f"its metadata cannot be read ({type(error).__name__}): reinstall or uninstall {name}"
    return Entry(name=name, distribution=name, version=version, problem=problem)
