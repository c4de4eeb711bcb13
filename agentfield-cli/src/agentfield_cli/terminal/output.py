"""Output of `af`: text for people, one JSON object for programs, errors in one form, and progress.

Results go to standard output; errors, notes and progress go to standard error. Text of nodes and callers may hold anything, so
control characters are escaped in every line for people.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TextIO

from agentfield.errors import AgentFieldError, ControlPlaneUnavailable
from agentfield.lossy import visible_json, visible_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from typer import TyperException

__all__ = ["ExitCode", "Output", "exit_code", "plain", "report_error", "report_usage"]


_PIPE_WIDTH = 200
"""Columns of a table that is written into a pipe or a file."""


class ExitCode(IntEnum):
    """Exit codes of `af`."""

    OK = 0
    FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def exit_code(error: AgentFieldError) -> ExitCode:
    """Return the exit code for an error: 3 if the control plane is unreachable, 2 for a refusal (4xx), else 1."""
    if isinstance(error, ControlPlaneUnavailable):
        return ExitCode.UNREACHABLE
    return ExitCode.REFUSED if 400 <= error.status < 500 else ExitCode.FAILED


def plain(value: Any) -> Any:
    """Return `value` as plain JSON values; pydantic models become objects."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def report_error(error: AgentFieldError, *, as_json: bool) -> int:
    """Print an error and return its exit code.

    Text goes to standard error. With `as_json` the problem document (RFC 9457) goes to standard output instead.
    """
    if as_json:
        _print_json(error.to_problem())
    else:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(visible_text(f"error: {error.message}\n{hint}code: {error.code}\n"))
    return exit_code(error)


def report_usage(error: TyperException, *, as_json: bool) -> int:
    """Print a usage error of the command line and return its exit code."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "af"
    refusal = AgentFieldError(error.format_message(), code="usage", hint=f"{path} --help")
    refusal.status = 400
    return report_error(refusal, as_json=as_json)


def _print_json(value: Any) -> None:
    sys.stdout.write(visible_json(json.dumps(plain(value), indent=2, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


class Output:
    """Printer of one command; imports rich with the first line of text.

    Args:
        as_json: Suppress text and print only the object that `result` receives.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._console: Console | None = None
        self._errors: Console | None = None

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line of text."""
        if not self.as_json:
            self._stdout().print(visible_text(text), style=style, markup=False, soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Print a rich table or tree."""
        if not self.as_json:
            self._stdout().print(renderable)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
        """Print rows under their column headings, or `empty` if there are none.

        Args:
            columns: The headings.
            rows: The cells; None is shown as a dash.
            empty: The line that replaces a table without rows.
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
            table.add_row(*(Text("-" if cell is None else visible_text(str(cell))) for cell in row))
        self._stdout().print(table)

    def note(self, text: str) -> None:
        """Print a status line on standard error."""
        if not self.as_json:
            self._stderr().print(visible_text(text), style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show a progress line on standard error; yields a function that changes its text."""
        if self.as_json:
            yield lambda _text: None
            return
        console = self._stderr()
        if not console.is_terminal:
            self.note(f"{text} …")
            yield lambda text: self.note(f"{text} …")
            return
        from rich.markup import escape

        with console.status(escape(visible_text(text))) as status:
            yield lambda text: status.update(escape(visible_text(text)))

    def result(self, value: Any) -> None:
        """Print `value` as the JSON object of the command; does nothing without `as_json`."""
        if self.as_json:
            _print_json(value)

    def _stdout(self) -> Console:
        if self._console is None:
            self._console = _console(sys.stdout)
        return self._console

    def _stderr(self) -> Console:
        if self._errors is None:
            self._errors = _console(sys.stderr)
        return self._errors


def _console(file: TextIO) -> Console:
    from rich.console import Console
    from rich.segment import Segment

    class VisibleConsole(Console):
        """A console that escapes the text of renderables as well, such as the labels of a tree."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                yield part if part.control else Segment(visible_text(part.text), part.style)

    # rich would fold piped text to the width of a terminal that does not exist
    return VisibleConsole(file=file, width=None if file.isatty() else _PIPE_WIDTH, highlight=False, emoji=False)
