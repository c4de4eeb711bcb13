"""A mutant: small edits of a skeleton, the standard test that finds them, and the words in which it says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentfield_cli.skeleton import write_plugin

__all__ = ["Edit", "Mutant"]

Kind = Literal["provider", "transport"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one place of one file."""

    file: str
    """Module of the skeleton, such as ``protocol``."""
    old: str
    """The text; it occurs once."""
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A skeleton with one fault."""

    name: str
    """Name of the provider or transport."""
    fault: str
    """What is wrong, as a phrase for the table."""
    test: str
    """The standard test that finds it."""
    says: str
    """A part of its message."""
    edits: tuple[Edit, ...]
    kind: Kind = "provider"
    transport: str = "websocket"
    """The transport of a provider's pair."""

    @property
    def pair(self) -> str:
        """The argument of ``--adapter``."""
        return f"{self.name}/{self.transport}" if self.kind == "provider" else f"*/{self.name}"

    def write(self, folder: Path) -> Path:
        """Write the project of the mutant into a folder and return its path.

        Raises:
            AssertionError: An edit does not fit the skeleton.
        """
        project = folder / self.name
        write_plugin(self.name, self.kind, project)
        for edit in self.edits:
            path = project / "src" / f"agentfield_{self.name}" / f"{edit.file}.py"
            text = path.read_text()
            assert text.count(edit.old) == 1, (
                f"{self.name}: {edit.file}.py has {text.count(edit.old)} times {edit.old!r}"
            )
            path.write_text(text.replace(edit.old, edit.new))
        return project
