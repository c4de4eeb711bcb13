"""Entry points of the installed distributions, read one distribution at a time.

`importlib_metadata.entry_points` fails for the whole environment if the metadata of one distribution is damaged, and it
parses the metadata of all. Here only the damaged distribution is lost, and a distribution without the group is not parsed.
Metadata in archives is left to importlib-metadata. No module is imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from importlib_metadata import Distribution, EntryPoint, IDistribution, distributions

__all__ = [
    "COMMAND_GROUP",
    "PEER_GROUP",
    "PLUGIN_GROUP",
    "InstalledEntryPoint",
    "installed_entry_points",
    "normalized_name",
]

PLUGIN_GROUP = "agentfield.plugins"
"""Entry-point group of plugins; a value is the module of the manifest."""

COMMAND_GROUP = "agentfield.commands"
"""Entry-point group of commands of `af`; a value is ``module:app`` of a `typer.Typer`."""

PEER_GROUP = "agentfield.peers"
"""Entry-point group of peers for the conformance kit; a name is a pair or a transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledEntryPoint:
    """One entry point."""

    name: str
    distribution: str
    version: str = ""
    value: str = ""
    problem: str = ""
    """Reason why it cannot be loaded, if the metadata is damaged."""

    @property
    def module(self) -> str:
        """The module in the value."""
        return self.value.partition(":")[0].strip()

    @property
    def label(self) -> str:
        """Distribution and version, as messages name it."""
        return f"{self.distribution} {self.version}".rstrip()

    def load(self) -> object:
        """Import the module or attribute.

        Raises:
            Exception: Any exception of the module; ValueError for an invalid value.
        """
        return EntryPoint(name=self.name, value=self.value, group=PLUGIN_GROUP).load()


def installed_entry_points(group: str) -> list[InstalledEntryPoint]:
    """Return the entry points of a group, sorted by distribution and name.

    Of two copies of a distribution on the path the first is used, as for imports.
    """
    found: list[InstalledEntryPoint] = []
    seen = set[str]()
    for info in _all_metadata():
        name = normalized_name(info.folder.partition("-")[0])
        if name not in seen:
            seen.add(name)
            found += _entries_of(info, group)
    return sorted(found, key=lambda entry: (entry.distribution, entry.name))


def normalized_name(name: str) -> str:
    """Return the normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The location of a distribution's metadata; nothing of it is read yet."""

    folder: str
    """Name of the metadata folder, such as ``agentfield_acme-1.0.dist-info``."""
    path: str
    archived: IDistribution | None = None
    """Reader of metadata in an archive."""

    def read(self, name: str) -> bytes | None:
        """Return a metadata file, None if it does not exist."""
        try:
            if self.archived is not None:
                return self.archived.locate_file(f"{self.folder}/{name}").read_bytes()
            with open(f"{self.path}/{name}", "rb") as file:  # noqa: PTH123 - a Path of each costs as much as reading it
                return file.read()
        except (OSError, KeyError):
            return None

    def distribution(self) -> IDistribution:
        return self.archived or Distribution.at(self.path)


def _all_metadata() -> Iterator[_Metadata]:
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as children:
                found = [_Metadata(child.name, child.path) for child in children if _is_metadata(child.name)]
        except NotADirectoryError:
            found = [_Metadata(Path(str(dist)).name, str(dist), dist) for dist in distributions(path=[folder])]
        except OSError:
            found = []
        yield from found


def _is_metadata(name: str) -> bool:
    return name.lower().endswith(("dist-info", "egg-info"))  # without a dot: the folder in an egg is named EGG-INFO


def _entries_of(info: _Metadata, group: str) -> list[InstalledEntryPoint]:
    data = info.read("entry_points.txt")
    if data is None or group.encode() not in data:
        return []
    label, version = info.folder.partition("-")[0].replace("_", "-"), ""
    try:
        text = data.decode()
        label, version = _name_and_version(info)
        return [
            InstalledEntryPoint(name=n, distribution=label, version=version, value=v) for n, v in _section(text, group)
        ]
    except Exception as error:  # noqa: BLE001 - damaged metadata raises many kinds of errors
        return [_damaged(label, version, error)]


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of a group (PyPA entry points specification)."""
    current = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("[") and line.endswith("]"):
            current = line[1:-1].strip()
        elif current == group and not line.startswith(("#", ";")):
            name, equals, value = line.partition("=")
            if not equals:
                raise ValueError(line)
            yield name.strip(), value.strip()


def _name_and_version(info: _Metadata) -> tuple[str, str]:
    """Return both from the headers of the metadata: parsing it with the description takes a hundred times as long."""
    head = (info.read("METADATA") or b"").replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode().splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in reversed(head))}
    if "Name" in fields and "Version" in fields:
        return fields["Name"], fields["Version"]
    dist = info.distribution()
    return dist.name, dist.version  # an egg, or damaged metadata: this raises the reason


def _damaged(name: str, version: str, error: Exception) -> InstalledEntryPoint:
    problem = f"its metadata cannot be read ({type(error).__name__}): reinstall or uninstall {name}"
    return InstalledEntryPoint(name=name, distribution=name, version=version, problem=problem)
