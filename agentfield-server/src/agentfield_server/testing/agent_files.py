"""Loads agent files without running them: `app.run()` does nothing, the test links the agent to its own control plane."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentfield.agent import Agent
from agentfield.errors import InvalidInput

__all__ = ["load_agent", "target_of"]

_NUMBERS = itertools.count(1)


def load_agent(reference: str | Path, folders: Sequence[Path]) -> Agent:
    """Return the agent that a file defines; each call loads the file again and returns a new agent that does not run.

    Args:
        reference: ``"agent.py"``, or ``"agent.py:app"`` where a file defines more than one.
        folders: Folders that a relative path is resolved against, in this order.

    Raises:
        InvalidInput: The file does not exist, or does not define that agent (code `bad_agent_file`).
    """
    text = str(reference)
    name, colon, attribute = text.rpartition(":")
    if not colon or not attribute.isidentifier():
        name, attribute = text, ""
    path = _resolve(Path(name), folders)
    made = {key: value for key, value in _namespace(path).items() if isinstance(value, Agent)}
    if attribute:
        made = {key: value for key, value in made.items() if key == attribute}
    agents = list({id(agent): agent for agent in made.values()}.values())
    if len(agents) != 1:
        has = f"it makes {', '.join(sorted(made))}" if made else f"it makes no Agent{f' {attribute}' * bool(attribute)}"
        raise InvalidInput(
            f"{text} does not name one agent: {has}.",
            code="bad_agent_file",
            hint="name it: agent.py:app",
            field="agent",
        )
    return agents[0]


def target_of(agents: Iterable[Agent], session: str | None) -> str:
    """Return the target of a session: ``node.session``.

    Args:
        agents: Agents that may declare it.
        session: Its name or target; None where there is only one.

    Raises:
        InvalidInput: No session fits, or several do (code `unknown_session`).
    """
    declared = [f"{agent.node_id}.{name}" for agent in agents for name in agent.sessions]
    fits = [target for target in declared if session in (None, target, target.partition(".")[2])]
    if len(fits) == 1:
        return fits[0]
    asked = "No session was named" if session is None else f"The session {session!r} was asked for"
    raise InvalidInput(
        f"{asked}, and these are declared: {', '.join(declared) or 'none'}.",
        code="unknown_session",
        hint='name one: call(agent, session="...")',
        field="session",
    )


def _resolve(path: Path, folders: Sequence[Path]) -> Path:
    tried = [folder / path for folder in folders]
    for candidate in tried:
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.resolve()
    raise InvalidInput(
        f"There is no agent file {str(path)!r} in {', '.join(str(folder) for folder in folders)}.",
        code="bad_agent_file",
        hint="name it relative to the test's folder or to the project's",
        field="agent",
    )


def _namespace(path: Path) -> dict[str, Any]:
    """Execute a file as a new module and return its namespace."""
    name = f"agentfield_agent_{next(_NUMBERS)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"{path} cannot be loaded as Python."
        raise InvalidInput(message, code="bad_agent_file", field="agent")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _run_disabled():
        spec.loader.exec_module(module)
    return vars(module)


@contextmanager
def _run_disabled() -> Iterator[None]:
    """Replace `Agent.run` by a no-op: the test links the agent itself."""
    original = Agent.run

    def run(self: Agent, **options: Any) -> None:
        """Do nothing; the test links the agent."""

    Agent.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        Agent.run = original  # type: ignore[method-assign]
