"""Runs an agent file in this process, as `python FILE` would."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from agentfield.errors import AgentFieldError, InvalidInput
from agentfield.lossy import lossy_text, visible_text

__all__ = ["check_agent_file", "run_agent_file"]


def check_agent_file(file: Path) -> Path:
    """Return the absolute path of an agent file.

    Raises:
        InvalidInput: The file does not exist or is not a Python file (code `bad_agent_file`).
    """
    why = "it does not exist" if not file.exists() else "it is not a file" if not file.is_file() else None
    if why is None and file.suffix != ".py":
        why = "it is not a Python file"
    if why is not None:
        raise InvalidInput(f"{file} cannot be run: {why}.", code="bad_agent_file", hint="af run agent.py", field="file")
    return file.resolve()


def run_agent_file(file: Path) -> None:
    """Run an agent file; if it creates an agent without running it, run that agent afterwards.

    Raises:
        InvalidInput: The file is not a Python file, or creates no agent (code `no_agent`).
        AgentFieldError: The file has a syntax error or raises an exception (code `agent_file_failed`). Its traceback is
            written to standard error, without the frames of `af`.
    """
    from agentfield.agent import Agent

    path = check_agent_file(file)
    sys.argv[:] = [str(file)]
    sys.path.insert(0, str(path.parent))
    started: list[Agent] = []
    original = Agent.run  # wrapped, to learn whether the file runs its agent itself

    def run(self: Agent, **options: Any) -> None:
        started.append(self)
        original(self, **options)

    Agent.run = run  # type: ignore[method-assign]
    try:
        names = runpy.run_path(str(path), run_name="__main__")
    except AgentFieldError:
        raise
    except Exception as error:  # noqa: BLE001 -- the file is user code
        raise _failure(file, path, error) from None
    finally:
        Agent.run = original  # type: ignore[method-assign]
    agents = [value for value in names.values() if isinstance(value, Agent)]
    if not agents and not started:
        raise InvalidInput(
            f"{file} creates no Agent.", code="no_agent", hint="app = Agent(node_id='my-node')", field="file"
        )
    if not started:
        agents[0].run()


def _failure(file: Path, path: Path, error: Exception) -> AgentFieldError:
    """Write the user's part of the traceback, and return the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(path):
        trace = trace.tb_next
    # a syntax error of the file itself has no frame of the user; its lines name the file, the line and the place
    sys.stderr.write(visible_text("".join(traceback.format_exception(error.with_traceback(trace)))))
    why = lossy_text(error, 500)
    return AgentFieldError(
        f"{file} cannot be run: {type(error).__name__}{f': {why}' if why else ''}.",
        code="agent_file_failed",
        hint=f"python {file}",
        field="file",
    )
