"""A second control plane beside one that runs: refused with who is in the way and what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults_kit import AF, House, opened


async def test_a_port_in_use_is_refused(tmp_path):
    """A control plane on a port in use ends at once and names the process that has it and what to type."""
    async with opened(House(tmp_path / "first")) as house:
        await house.start_plane()
        elsewhere = {"AGENTFIELD_HOME": str(tmp_path / "second")}
        other = house.program("other", AF, "server", "--port", str(house.port), env=elsewhere)
        assert await other.run() != 0
        assert f"Port {house.port} on 127.0.0.1 is in use by process {house.plane.pid} (" in _words(other.said)
        assert "agentfield_server" in other.said
        assert "--port 0" in other.said
        assert "Traceback" not in other.said
        assert await house.client.health()
        assert not (tmp_path / "second" / "current.json").exists()


@pytest.mark.parametrize("port", ["0", "the same"])
async def test_a_folder_in_use_is_refused(tmp_path, port):
    """A control plane on a folder in use ends at once and names the process that has it and what to type."""
    async with opened(House(tmp_path)) as house:
        await house.start_plane()
        announced = _announced(house)
        wanted = str(house.port) if port == "the same" else port
        other = house.program("other", AF, "server", "--port", wanted, env={"AGENTFIELD_HOME": str(house.home)})
        assert await other.run() != 0
        assert f"agentfield.db is in use by process {house.plane.pid}." in _words(other.said)
        assert f"kill {house.plane.pid}" in _words(other.said)
        assert "AGENTFIELD_HOME" in other.said
        assert "Traceback" not in other.said
        assert await house.client.health()
        assert _announced(house) == announced


def _announced(house: House) -> str:
    return Path(house.home / "current.json").read_text()


def _words(text: str) -> str:
    """Return a text without the line breaks of a terminal."""
    return " ".join(text.split())
