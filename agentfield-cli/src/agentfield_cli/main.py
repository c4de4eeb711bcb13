"""The `af` command: which commands there are; each is imported when it is used, so that `af --help` costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["COMMANDS", "main", "run"]

COMMANDS = {
    "demo": "Make one real voice call, here and now, with no key and no network.",
    "dev": "Run a control plane with the agents and the page of a folder.",
    "server": "Run a control plane.",
    "run": "Run an agent file.",
    "session": "Start, call, watch and end sessions.",
    "execute": "Call a target through the control plane.",
    "approvals": "See what waits for a human, and decide.",
    "nodes": "List the agent nodes that are connected.",
    "adapters": "List the pairs of provider and transport, and what each can do.",
    "plugins": "List the installed plugins and their state.",
    "webhooks": "Tell other systems of events.",
    "init": "Begin a project.",
    "doctor": "Look whether this installation is in order.",
    "store": "See how large the store is, take old runs away, give room back.",
    "local": "Run the offline speech server.",
}
"""Every command with its line in the overview."""


class _Later(TyperCommand):
    """Stands for a command whose module is imported when the command is used."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        from typer.main import get_command

        command = get_command(importlib.import_module(f"agentfield_cli.commands.{self.name}").app)
        command.name = self.name
        return command.make_context(info_name, args, parent=parent, **extra)


class _Overview(TyperGroup):
    """The top of the command tree."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, line in COMMANDS.items():
            self.add_command(_Later(name, help=line))
        self._looked = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        self._look()
        return [*COMMANDS, *sorted(self.commands.keys() - COMMANDS.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            self._look()
        return super().get_command(ctx, cmd_name)

    def _look(self) -> None:
        """Look for commands of plugins; nobody pays for it who uses one of ours."""
        if self._looked:
            return
        from agentfield_cli.contributed import contributed_commands

        self._looked = True
        for name, command in contributed_commands().items():
            if name not in COMMANDS:
                self.add_command(command)


app = typer.Typer(cls=_Overview, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"af {version('agentfield-cli')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - read by its callback
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Start, watch and make voice calls from a terminal.

    Exit codes: 0 done, 1 failed, 2 bad usage or refused, 3 control plane out of reach, 130 interrupted.

    \b
    Examples:
      af demo                               one call, with nothing set up
      af dev examples/voice_dictation       an agent and its page
      af session start voice-support.voice  a page address for one call
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(args: Sequence[str]) -> int:
    """Run one command line.

    Args:
        args: What follows `af`.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad usage or refused, 3 control plane out of reach, 130 interrupted.
    """
    from typer.main import get_command

    try:
        from agentfield.errors import AgentFieldError
    except Exception:  # noqa: BLE001 - it may be anybody's code that is there in the place of ours
        return _report_intruder()
    from agentfield_cli.output import report_error, report_usage

    as_json = "--json" in args
    try:
        code = get_command(app).main(args=list(args), prog_name="af", standalone_mode=False)
    except AgentFieldError as error:
        return report_error(error, as_json=as_json)
    except typer.TyperException as error:
        return report_usage(error, as_json=as_json)
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _report_intruder() -> int:
    """Say what is in the place of agentfield-core, whose package does not import."""
    import traceback

    from agentfield_cli.intruder import FIX, intruders

    traceback.print_exc(limit=0)
    others = intruders()
    names = " ".join(other.split()[0] for other in others) or "agentfield"
    why = f"{', '.join(others)} has overwritten it" if others else "it is damaged"
    sys.stderr.write(f"error: the package agentfield is not agentfield-core's: {why}.\n")
    sys.stderr.write(f"hint: {FIX.format(names=names)}\ncode: foreign_package\n")
    return 1


def main() -> None:
    """Run `af` with the arguments of this process."""
    sys.exit(run(sys.argv[1:]))
