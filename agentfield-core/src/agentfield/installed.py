"""What installed distributions say of themselves: their entry points, read one distribution at a time.

`importlib_metadata.entry_points` gives up on the whole environment when one distribution has metadata that cannot be
read, and takes apart what every distribution says; here only that distribution is lost, and of most only a few bytes are
looked at. What is not simply a folder is left to importlib-metadata. Nothing is imported to find entries.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from importlib_metadata import Distribution, EntryPoint, IDistribution, distributions

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
    for info in _infos():
        name = canonical(info.folder.partition("-")[0])
        if name not in seen:
            seen.add(name)
            found += _entries_of(info, group)
    return sorted(found, key=lambda entry: (entry.distribution, entry.name))


def canonical(name: str) -> str:
    """Return the name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class _Info:
    """The metadata of a distribution, of which nothing was read yet."""

    folder: str
    """Name of its folder, such as ``agentfield_acme-1.0.dist-info``."""
    path: str
    archived: IDistribution | None = None
    """What reads it where the path leads into an archive."""

    def read(self, name: str) -> bytes | None:
        """Return a file of it, None where there is none."""
        try:
            if self.archived is not None:
                return self.archived.locate_file(f"{self.folder}/{name}").read_bytes()
            with open(f"{self.path}/{name}", "rb") as file:  # noqa: PTH123 - a Path of each costs as much as reading it
                return file.read()
        except (OSError, KeyError):
            return None

    def distribution(self) -> IDistribution:
        return self.archived or Distribution.at(self.path)


def _infos() -> Iterator[_Info]:
    for place in sys.path:
        try:
            with os.scandir(place or ".") as children:
                found = [_Info(child.name, child.path) for child in children if _is_metadata(child.name)]
        except NotADirectoryError:
            found = [_Info(Path(str(dist)).name, str(dist), dist) for dist in distributions(path=[place])]
        except OSError:
            found = []
        yield from found


def _is_metadata(name: str) -> bool:
    return name.lower().endswith(("dist-info", "egg-info"))  # without a dot: in an egg it is just EGG-INFO


def _entries_of(info: _Info, group: str) -> list[Entry]:
    data = info.read("entry_points.txt")
    if data is None or group.encode() not in data:
        return []
    label, version = info.folder.partition("-")[0].replace("_", "-"), ""
    try:
        text = data.decode()
        label, version = _name_and_version(info)
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


def _name_and_version(info: _Info) -> tuple[str, str]:
    """Return both from the head of the metadata: the whole of it, with the description, takes a hundred times as long."""
    head = (info.read("METADATA") or b"").replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode().splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in reversed(head))}
    if "Name" in fields and "Version" in fields:
        return fields["Name"], fields["Version"]
    dist = info.distribution()
    return dist.name, dist.version  # an egg, or something that is damaged and says how


def _damaged(name: str, version: str, error: Exception) -> Entry:
    problem = f"its metadata cannot be read ({type(error).__name__}): reinstall or uninstall {name}"
    return Entry(name=name, distribution=name, version=version, problem=problem)
