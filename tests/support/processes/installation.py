"""A control plane and its agents as processes, and the offline provider that they use."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentfield.client import ControlPlaneClient
from agentfield_cli.demo.speech import SpeechServer
from support.paths import ROOT
from support.processes.programs import AF, program, wait_for

__all__ = ["CANARY", "EXAMPLES", "Installation", "provider_settings", "run_installation", "speech_server"]

EXAMPLES = ROOT / "examples"

CANARY = "sk-canary-Vt93kQe7LmXw20"
"""A provider key that must be in no byte but the header that carries it."""


@contextmanager
def speech_server(folder: Path, *flags: str) -> Iterator[SpeechServer]:
    """Run the offline provider as a process.

    Args:
        folder: Where its output is kept.
        flags: Further arguments, such as ``"--brain", "paraphrasing"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "speech.log"
    arguments = [sys.executable, "-m", "agentfield_local", "--port", "0", "--linger", "0", *flags]
    with program(arguments, log=log) as process:

        def address() -> str | None:
            ready = (line for line in log.read_text().splitlines() if line.startswith('{"url"'))
            return next((str(json.loads(line)["url"]) for line in ready), None)

        yield SpeechServer(wait_for(address, {log: process}, "the speech server"), "")


def provider_settings(url: str) -> dict[str, str]:
    """Return the settings of a control plane that reaches all its providers at `url`, with the canary key."""
    names = ("OPENAI", "OPENROUTER")
    return {f"{name}_BASE_URL": f"{url}/v1" for name in names} | {f"{name}_API_KEY": CANARY for name in names}


@dataclass(slots=True)
class Installation:
    """A running control plane with its agents."""

    url: str
    home: Path
    logs: list[Path] = field(default_factory=list)

    def client(self) -> ControlPlaneClient:
        """Return a client with the operator's rights."""
        return ControlPlaneClient(self.url)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the linked node instances."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.url}/api/v1/nodes", timeout=10) as response:
            listed: list[dict[str, Any]] = json.load(response)
        return [node for node in listed if node["connected"]]

    def everything(self) -> dict[str, bytes]:
        """Return every file that the installation wrote: logs, store, state files."""
        files = [*self.logs, *(path for path in self.home.rglob("*") if path.is_file())]
        return {str(path): path.read_bytes() for path in files}


@contextmanager
def run_installation(folder: Path, *agents: Path, env: Mapping[str, str]) -> Iterator[Installation]:
    """Run a control plane and agents, each as a process, and wait until all agents are linked.

    Args:
        folder: Where everything is kept.
        agents: Agent files, run unchanged.
        env: The control plane's settings; agents do not see them.
    """
    home, log = folder / "home", folder / "plane.log"
    home.mkdir(parents=True)
    with ExitStack() as stack:
        where = {"AGENTFIELD_HOME": str(home), "AGENTFIELD_DRAIN_SECONDS": "1"}
        plane = stack.enter_context(program([AF, "server", "--port", "0", "--json"], log=log, env={**where, **env}))
        current = home / "current.json"
        url = wait_for(lambda: str(json.loads(current.read_text())["url"]), {log: plane}, "the control plane")
        running = {}
        for number, file in enumerate(agents):
            output = folder / f"{number} {file.parent.name} {file.stem}.log"
            node = program([sys.executable, str(file)], log=output, env={**where, "AGENTFIELD_URL": url}, cwd=folder)
            running[output] = stack.enter_context(node)
        installation = Installation(url, home, [log, *running])
        wait_for(lambda: len(installation.nodes()) >= len(agents), running, "the agents")
        yield installation
