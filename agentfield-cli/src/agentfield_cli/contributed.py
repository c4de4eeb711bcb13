"""Commands that plugins bring: found in the metadata of their distributions, imported when they are used."""

from __future__ import annotations

import os
import re
from typing import Any

from typer.core import TyperCommand

from agentfield.installed import COMMANDS, Entry, canonical, installed_entries

__all__ = ["Contributed", "contributed_commands", "contributed_entries"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


def contributed_entries() -> dict[str, list[Entry]]:
    """Return the commands of plugins by name, each with everybody who brings it; what is switched off is left out."""
    switched_off = os.environ.get("AGENTFIELD_NO_PLUGIN_AUTOLOAD", "").strip().lower()
    if switched_off not in ("", "0", "false", "no", "off"):
        return {}
    disabled = {canonical(name.strip()) for name in os.environ.get("AGENTFIELD_DISABLE_PLUGINS", "").split(",")}
    found: dict[str, list[Entry]] = {}
    for entry in installed_entries(COMMANDS):
        if _NAME.fullmatch(entry.name) and canonical(entry.distribution) not in disabled:
            found.setdefault(entry.name, []).append(entry)
    return found


def contributed_commands() -> dict[str, Contributed]:
    """Return what stands for each command of a plugin in the overview."""
    return {name: Contributed(name, entries) for name, entries in contributed_entries().items()}


class Contributed(TyperCommand):
    """Stands for a command of a plugin; it may be broken as long as nobody uses it.

    Args:
        name: What it is called by.
        entries: Who brings it.
    """

    def __init__(self, name: str, entries: list[Entry]) -> None:
        labels = ", ".join(entry.label for entry in entries)
        super().__init__(name, help=f"From {labels}.", rich_help_panel="Commands of plugins")
        self._entries = entries

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and let it read its arguments.

        Raises:
            PluginBroken: It does not import, or is no `typer.Typer`.
            AmbiguousAdapter: Several plugins bring it.
        """
        from typer.main import get_command

        command = get_command(self._load())
        command.name = self.name
        return command.make_context(info_name, args, parent=parent, **extra)

    def _load(self) -> Any:
        import typer

        from agentfield.errors import AmbiguousAdapter, PluginBroken

        if len(self._entries) > 1:
            off = " or ".join(f"AGENTFIELD_DISABLE_PLUGINS={entry.distribution}" for entry in self._entries)
            raise AmbiguousAdapter(
                f"the command {self.name!r} is brought by {len(self._entries)} plugins:"
                f" {', '.join(entry.label for entry in self._entries)}. AgentField will not choose for you.",
                code="ambiguous_command",
                hint=f"uninstall one, or set {off}",
            )
        (entry,) = self._entries
        hint = f"reinstall or uninstall {entry.distribution}"
        try:
            app = entry.load()
        except (Exception, SystemExit) as error:
            why = entry.problem or f"{type(error).__name__}: {error}"
            raise PluginBroken(
                f"the command {self.name!r} of {entry.label} does not load: {why}", code="command_broken", hint=hint
            ) from error
        if not isinstance(app, typer.Typer):
            raise PluginBroken(
                f"the command {self.name!r} of {entry.label} is {type(app).__name__}, not typer.Typer.",
                code="command_broken",
                hint=hint,
            )
        return app
