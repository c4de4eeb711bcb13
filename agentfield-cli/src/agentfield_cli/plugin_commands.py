"""Commands of plugins: found in the metadata of their distributions, imported on first use."""

from __future__ import annotations

import os
import re
from typing import Any

from typer.core import TyperCommand

from agentfield.entry_points import COMMAND_GROUP, InstalledEntryPoint, installed_entry_points, normalized_name

__all__ = ["PluginCommand", "plugin_command_entries", "plugin_command_stubs"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


def plugin_command_entries() -> dict[str, list[InstalledEntryPoint]]:
    """Return the entry points of plugin commands by command name, without those of disabled plugins.

    A name with several entry points is ambiguous; `PluginCommand` refuses to run it.
    """
    switched_off = os.environ.get("AGENTFIELD_NO_PLUGIN_AUTOLOAD", "").strip().lower()
    if switched_off not in ("", "0", "false", "no", "off"):
        return {}
    disabled = {normalized_name(name.strip()) for name in os.environ.get("AGENTFIELD_DISABLE_PLUGINS", "").split(",")}
    found: dict[str, list[InstalledEntryPoint]] = {}
    for entry in installed_entry_points(COMMAND_GROUP):
        if _NAME.fullmatch(entry.name) and normalized_name(entry.distribution) not in disabled:
            found.setdefault(entry.name, []).append(entry)
    return found


def plugin_command_stubs() -> dict[str, PluginCommand]:
    """Return a placeholder for each plugin command, for the overview of `af --help`."""
    return {name: PluginCommand(name, entries) for name, entries in plugin_command_entries().items()}


class PluginCommand(TyperCommand):
    """Placeholder of a plugin command; a broken plugin fails only when its command is used.

    Args:
        name: The command name.
        entries: The entry points with that name.
    """

    def __init__(self, name: str, entries: list[InstalledEntryPoint]) -> None:
        labels = ", ".join(entry.label for entry in entries)
        super().__init__(name, help=f"From {labels}.", rich_help_panel="Commands of plugins")
        self._entries = entries

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and parse its arguments.

        Raises:
            PluginBroken: The command does not import, or is not a `typer.Typer`.
            AmbiguousAdapter: Several plugins provide the command.
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
                f"the command {self.name!r} is provided by {len(self._entries)} plugins:"
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
