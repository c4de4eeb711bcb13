"""Loads agent files as they are: what they would run is linked to the test's control plane instead."""

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
    """Return the agent that a file makes; each time a new one, whose `run` was not entered.

    Args:
        reference: ``"agent.py"``, or ``"agent.py:app"`` where a file makes more than one.
        folders: Where a relative path is looked for, in this order.

    Raises:
        InvalidInput: There is no such file or no such agent in it (code `bad_agent_file`).
    """
    text = str(reference)
    name, colon, attribute = text.rpartition(":")
    if not colon or not attribute.isidentifier():
        name, attribute = text, ""
    path = _found(Path(name), folders)
    made = {key: value for key, value in _names(path).items() if isinstance(value, Agent)}
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
        agents: Where it is declared.
        session: Its name or target; None where there is only one.

    Raises:
        InvalidInput: There is no such session, or several would do (code `unknown_session`).
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


def _found(path: Path, folders: Sequence[Path]) -> Path:
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


def _names(path: Path) -> dict[str, Any]:
    """Run a file as a module of its own and return what it made."""
    name = f"agentfield_agent_{next(_NUMBERS)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"{path} cannot be loaded as Python."
        raise InvalidInput(message, code="bad_agent_file", field="agent")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _not_run():
        spec.loader.exec_module(module)
    return vars(module)


@contextmanager
def _not_run() -> Iterator[None]:
    """Let `app.run()` at the end of a file do nothing: the test links the agent."""
    original = Agent.run

    def run(self: Agent, **options: Any) -> None:
        """Be linked later."""

    Agent.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        Agent.run = original  # type: ignore[method-assign]
