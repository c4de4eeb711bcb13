"""Cost of plugins: discovery of fifty, resolution of an adapter, and dispatch of an event to five observers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from agentfield.plugins import PLUGIN_API, Manifest, RecordedEvent, Registry, hookimpl
from agentfield.plugins.hooks.observers import ObserverDispatcher
from benchmarks.rows import Row, percentile

PLUGINS = 50
RUNS = 9
CALLS = 2000
EVENTS = 500

_PLUGIN = """
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, hookimpl

@hookimpl
def agentfield_manifest():
    can = Capabilities(tools="sync", formats=frozenset({{"pcm16/24000"}}))
    pair = PairSpec(
        provider="{name}", transport="websocket", factory="{name}.adapter:adapter", media="bridged", capabilities=can
    )
    return Manifest(api=(2, 0), providers=(ProviderSpec(name="{name}", title="{name}"),), pairs=(pair,))
"""
_PEER = """
import json, time
import agentfield.plugins, importlib.metadata, pluggy
list(importlib.metadata.distributions(path=["nowhere"]))
manager = pluggy.PluginManager("agentfield")
begin = time.process_time()
manager.load_setuptools_entrypoints("agentfield.plugins")
manifests = manager.hook.agentfield_manifest()
print(json.dumps([time.process_time() - begin, 0.0, len([x for x in manifests if x.pairs[0].provider[:5] == "bench"])]))
"""
_OURS = """
import json, time
import agentfield.plugins
{libraries}
begin = time.process_time()
registry = agentfield.plugins.Registry.discover({{}})
discovered = time.process_time() - begin
needs = (agentfield.plugins.Need("tools", frozenset({{"sync", "async"}}), "tools=[...]"),)
begin = time.perf_counter()
for _ in range({calls}):
    registry.resolve("bench07", "websocket", needs)
resolved = (time.perf_counter() - begin) / {calls}
found = sum(record.state == "ok" and record.name.startswith("bench") for record in registry.plugins)
print(json.dumps([discovered, resolved, found]))
"""
_LIBRARIES = """
import email.parser, email.policy, importlib_metadata
list(importlib_metadata.distributions(path=["nowhere"]))
"""


def measure() -> list[Row]:
    """Discover and resolve generated distributions in fresh interpreters, and dispatch events in this one."""
    with tempfile.TemporaryDirectory() as folder:
        _generate(Path(folder))
        peer, _ = _median(folder, _PEER)
        found, resolved = _median(folder, _OURS.format(libraries=_LIBRARIES, calls=CALLS))
        cold, _ = _median(folder, _OURS.format(libraries="", calls=1))
    emit, append = asyncio.run(_emit())
    return [
        Row(name=f"discovery of {PLUGINS} light plugins, CPU", value=found * 1e3, unit="ms", floor=peer * 1e3, goal=30),
        Row(name="the same, import of importlib-metadata included", value=cold * 1e3, unit="ms", floor=peer * 1e3),
        Row(name=f"resolve a pair among {PLUGINS} plugins", value=resolved * 1e6, unit="µs", goal=50),
        Row(name="emit an event to five observers", value=emit * 1e6, unit="µs", floor=append * 1e6, goal=10),
    ]


def _generate(folder: Path) -> None:
    """Write distributions as an installer leaves them."""
    for number in range(PLUGINS):
        name = f"bench{number:02}"
        info = folder / f"agentfield_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: agentfield-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[agentfield.plugins]\n{name} = agentfield_{name}_plugin\n")
        (folder / f"agentfield_{name}_plugin.py").write_text(_PLUGIN.format(name=name))


def _median(folder: str, program: str) -> tuple[float, float]:
    """Return the median times of discovery and of a resolve; the first run, which compiles, is not counted.

    The other runs use the compiled files, as after an installation, even if the environment forbids writing them.
    """
    runs = []
    for _ in range(RUNS + 1):
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": ""},
        )
        *values, found = json.loads(done.stdout)
        assert found == PLUGINS, done.stdout
        runs.append(values)
    discovered, resolved = (percentile(values, 50) for values in zip(*runs[1:], strict=True))
    return discovered, resolved


async def _emit() -> tuple[float, float]:
    """Return the time to dispatch an event to five observers, and the time to append it to five lists."""
    logging.getLogger("agentfield.plugins").setLevel(logging.ERROR)
    about = dict.fromkeys(("id", "seq", "type", "at", "run_id", "session_id", "execution_id"))
    data = json.dumps({**about, "body": {"kind": "tool"}}).encode()
    values, floors = [], []
    async with ObserverDispatcher(
        Registry.of([_observer(name) for name in "abcde"]), size=EVENTS, drain=0.1
    ) as observers:
        lists: list[list[bytes]] = [[] for _ in range(5)]
        for _ in range(RUNS):
            values.append(_each(lambda: observers.dispatch("execution.ended", data)))
            floors.append(_each(lambda: [waiting.append(data) for waiting in lists]))
        assert sum(counts.dropped for counts in observers.counts.values()) == 5 * EVENTS * (RUNS - 1)
    return percentile(values, 50), percentile(floors, 50)


def _each(emit: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(EVENTS):
        emit()
    return (time.perf_counter() - begin) / EVENTS


def _observer(name: str) -> ModuleType:
    module = ModuleType(name)

    async def look(event: RecordedEvent) -> None: ...

    module.__dict__["agentfield_manifest"] = hookimpl(lambda: Manifest(api=PLUGIN_API))
    module.__dict__["agentfield_dag_event"] = hookimpl(look)
    return module
