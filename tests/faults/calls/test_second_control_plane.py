"""A second control plane next to a running one: it is refused; the error names the process and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.faults.installation import Installation, opened
from support.processes.programs import AF


async def test_a_port_in_use_is_refused(tmp_path):
    """A control plane on a port in use exits at once; the error names the process that uses it and the remedy."""
    async with opened(Installation(tmp_path / "first")) as installation:
        await installation.start_plane()
        elsewhere = {"AGENTFIELD_HOME": str(tmp_path / "second")}
        other = installation.program("other", AF, "server", "--port", str(installation.port), env=elsewhere)
        assert await other.run() != 0
        assert f"Port {installation.port} on 127.0.0.1 is in use by process {installation.plane.pid} (" in _words(
            other.output
        )
        assert "agentfield_server" in other.output
        assert "--port 0" in other.output
        assert "Traceback" not in other.output
        assert await installation.client.health()
        assert not (tmp_path / "second" / "current.json").exists()


@pytest.mark.parametrize("port", ["0", "the same"])
async def test_a_folder_in_use_is_refused(tmp_path, port):
    """A control plane on a folder in use exits at once; the error names the process that uses it and the remedy."""
    async with opened(Installation(tmp_path)) as installation:
        await installation.start_plane()
        announced = _announced(installation)
        wanted = str(installation.port) if port == "the same" else port
        other = installation.program(
            "other", AF, "server", "--port", wanted, env={"AGENTFIELD_HOME": str(installation.home)}
        )
        assert await other.run() != 0
        assert f"agentfield.db is in use by process {installation.plane.pid}." in _words(other.output)
        assert f"kill {installation.plane.pid}" in _words(other.output)
        assert "AGENTFIELD_HOME" in other.output
        assert "Traceback" not in other.output
        assert await installation.client.health()
        assert _announced(installation) == announced


def _announced(installation: Installation) -> str:
    return Path(installation.home / "current.json").read_text()


def _words(text: str) -> str:
    """Return a text without the line breaks of a terminal."""
    return " ".join(text.split())
