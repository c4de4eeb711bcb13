"""What `af` prints: text for people, one JSON object for programs, errors in one form, progress for what takes time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TextIO

from agentfield.errors import AgentFieldError, ControlPlaneUnavailable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from typer import TyperException

__all__ = ["ExitCode", "Output", "exit_code", "plain", "report_error", "report_usage"]


_PIPED = 200


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def exit_code(error: AgentFieldError) -> ExitCode:
    """Return the exit code that an error ends a command with."""
    if isinstance(error, ControlPlaneUnavailable):
        return ExitCode.UNREACHABLE
    return ExitCode.REFUSED if 400 <= error.status < 500 else ExitCode.FAILED


def plain(value: Any) -> Any:
    """Return `value` as JSON values; pydantic models become objects."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def report_error(error: AgentFieldError, *, as_json: bool) -> int:
    """Print an error and return the exit code: text on standard error, or its problem document as the JSON object."""
    if as_json:
        _print_json(error.to_problem())
    else:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"error: {error.message}\n{hint}code: {error.code}\n")
    return exit_code(error)


def report_usage(error: TyperException, *, as_json: bool) -> int:
    """Print what is wrong with a command line and return the exit code."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "af"
    refusal = AgentFieldError(error.format_message(), code="usage", hint=f"{path} --help")
    refusal.status = 400
    return report_error(refusal, as_json=as_json)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


class Output:
    """Where a command prints; rich is imported with the first line that a person reads.

    Args:
        as_json: Print only the one object of `result`.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._console: Console | None = None
        self._errors: Console | None = None

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line for people."""
        if not self.as_json:
            self._out().print(text, style=style, markup=False, soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a tree for people."""
        if not self.as_json:
            self._out().print(renderable)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
        """Print rows under their columns, or `empty` when there are none.

        Args:
            columns: The headings.
            rows: The cells; None is shown as a dash.
            empty: What to say instead of a table without rows.
        """
        if self.as_json:
            return
        if not rows:
            self.line(empty)
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
        self._out().print(table)

    def note(self, text: str) -> None:
        """Print a line about what is going on, on standard error."""
        if not self.as_json:
            self._err().print(text, style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes time; yields a function that changes the text."""
        if self.as_json:
            yield lambda _text: None
            return
        console = self._err()
        if not console.is_terminal:
            self.note(f"{text} …")
            yield lambda text: self.note(f"{text} …")
            return
        from rich.markup import escape

        with console.status(escape(text)) as status:
            yield lambda text: status.update(escape(text))

    def result(self, value: Any) -> None:
        """Print the one object that a program reads."""
        if self.as_json:
            _print_json(value)

    def _out(self) -> Console:
        if self._console is None:
            self._console = _console(sys.stdout)
        return self._console

    def _err(self) -> Console:
        if self._errors is None:
            self._errors = _console(sys.stderr)
        return self._errors


def _console(file: TextIO) -> Console:
    from rich.console import Console

    # what is piped into a file or a program must not be folded to the width of nobody's terminal
    return Console(file=file, width=None if file.isatty() else _PIPED, highlight=False, emoji=False)
