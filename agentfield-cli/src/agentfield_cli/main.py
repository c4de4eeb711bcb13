"""Entry point of `af`: builds the command tree, runs one command line, and maps errors to exit codes.

A command module is imported when its command is used, so that `af --help` imports no heavy library.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from agentfield_cli.command_table import COMMANDS, OPERATING

__all__ = ["main", "run"]


class _LazyCommand(TyperCommand):
    """Placeholder of a built-in command; imports the command's module on first use."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        from typer.main import get_command

        package = "agentfield_cli.commands.operating" if self.name in OPERATING else "agentfield_cli.commands"
        command = get_command(importlib.import_module(f"{package}.{self.name}").app)
        command.name = self.name
        return command.make_context(info_name, args, parent=parent, **extra)


class _CommandGroup(TyperGroup):
    """Root of the command tree: built-in commands first, then those of plugins."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, line in COMMANDS.items():
            self.add_command(_LazyCommand(name, help=line))
        self._plugins_loaded = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        self._load_plugin_commands()
        return [*COMMANDS, *sorted(self.commands.keys() - COMMANDS.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            self._load_plugin_commands()
        return super().get_command(ctx, cmd_name)

    def _load_plugin_commands(self) -> None:
        """Add the commands of plugins once; a built-in command never triggers this scan."""
        if self._plugins_loaded:
            return
        from agentfield_cli.plugin_commands import plugin_command_stubs

        self._plugins_loaded = True
        for name, command in plugin_command_stubs().items():
            if name not in COMMANDS:
                self.add_command(command)


app = typer.Typer(cls=_CommandGroup, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"af {version('agentfield-cli')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - read by its callback
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Start, watch and make voice calls from a terminal.

    Exit codes: 0 done, 1 failed, 2 bad usage or refused, 3 control plane out of reach, 130 interrupted.

    \b
    Examples:
      af demo                               one call, without any setup
      af dev examples/voice_dictation       an agent and its page
      af session start voice-support.voice  the address of a page that makes one call
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(args: Sequence[str]) -> int:
    """Run one command line.

    Args:
        args: The arguments after `af`.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad usage or refused, 3 control plane out of reach, 130 interrupted.
    """
    from typer.main import get_command

    try:
        from agentfield.errors import AgentFieldError, InvalidInput
        from agentfield.lossy import lossy_text
    except Exception:  # noqa: BLE001 - a foreign package in place of agentfield-core may raise anything
        return _report_foreign_package()
    from agentfield_cli.terminal.output import report_error, report_usage

    as_json = "--json" in args
    try:
        code = get_command(app).main(args=list(args), prog_name="af", standalone_mode=False)
    except AgentFieldError as error:
        return report_error(error, as_json=as_json)
    except typer.TyperException as error:
        return report_usage(error, as_json=as_json)
    except typer.Abort:
        return 130
    except (ValueError, ExceptionGroup):
        # what encodes an argument is deep inside: a path of any bytes is fine, a text that is sent or stored is not
        wrong = next((each for each in args if not _is_unicode(each)), None)
        if wrong is None:
            raise
        refusal = InvalidInput(
            f"The argument {lossy_text(wrong, 200)} is not UTF-8.",
            code="unrepresentable",
            hint="give it in whole Unicode characters",
        )
        return report_error(refusal, as_json=as_json)
    return code if isinstance(code, int) else 0


def _is_unicode(argument: str) -> bool:
    """Return whether an argument is text; bytes that are not UTF-8 arrive as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _report_foreign_package() -> int:
    """Report which distribution replaced the package of agentfield-core, which does not import."""
    import traceback

    from agentfield_cli.diagnostics.foreign_package import REINSTALL_HINT, foreign_distributions

    traceback.print_exc(limit=0)
    others = foreign_distributions()
    names = " ".join(other.split()[0] for other in others) or "agentfield"
    why = f"{', '.join(others)} has overwritten it" if others else "it is damaged"
    sys.stderr.write(f"error: the package agentfield is not agentfield-core's: {why}.\n")
    sys.stderr.write(f"hint: {REINSTALL_HINT.format(names=names)}\ncode: foreign_package\n")
    return 1


def main() -> None:
    """Run `af` with the arguments of this process and exit."""
    sys.exit(run(sys.argv[1:]))
