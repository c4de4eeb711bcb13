"""Thousands of calls on every pair: memory, tasks, threads and descriptors of all processes stay flat."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import linear_regression

import aiohttp
import psutil
import pytest

from support.audio import tone_samples
from support.faults.installation import Installation, opened
from support.processes.live_call import calling
from support.processes.programs import Program, free_port
from support.waiting import until, until_async

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
AT_ONCE = 8
"""Calls at once."""
ROUND = 48
"""Calls between two looks at the processes."""
WARM_UP = 3
"""Rounds in which caches and pools may fill."""
KILOBYTES_A_CALL = 30.0
"""Growth of a process that counts as flat. A stock peer connection leaves more in the allocator (see docs/performance.md)."""
SLACK = 4
"""Tasks, threads and descriptors that may come after the warm-up: pools of threads and connections fill on demand."""
PROGRAMS = Path(__file__).parent / "programs"
TARGETS = (
    "local_websocket",
    "local_webrtc",
    "local_audio_turns",
    "openai_websocket",
    "openai_webrtc",
    "openrouter_audio_turns",
)


class CountedInstallation(Installation):
    """An installation whose processes report the number of their tasks and objects."""

    def program(self, name: str, *arguments: str, env: Mapping[str, str]) -> Program:
        """Return a program that writes its counts to `NAME.counts` at each SIGUSR1."""
        counts = str(self.counts(name))
        return super().program(name, str(PROGRAMS / "counted.py"), counts, *arguments, env=env)

    def counts(self, name: str) -> Path:
        """Return the file that a program writes its counts to."""
        return self.folder / f"{name}.counts"


@dataclass(slots=True)
class Watched:
    """A process and what was measured after each round."""

    name: str
    process: psutil.Process
    counts: Path
    memory: list[float] = field(default_factory=list)
    """Kilobytes."""
    tasks: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    kinds: list[dict[str, int]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)
    """Numbers of the looks at which no session was left, not even an ended one whose handler may still call."""

    async def look(self, *, quiet: bool) -> None:
        """Measure it."""
        if quiet:
            self.quiet.append(len(self.tasks))
        self.counts.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        await until(self.counts.exists, f"{self.name} reports its counts")
        counts = json.loads(self.counts.read_text())
        self.memory.append(self.process.memory_info().rss / 1024)
        self.tasks.append(counts["tasks"])
        self.threads.append(self.process.num_threads())
        self.descriptors.append(self.process.num_fds())
        self.kinds.append(counts["kinds"])

    def growth(self) -> float:
        """Return the kilobytes that it grew with each call."""
        values = self.memory[WARM_UP : self.quiet[-1]]
        return linear_regression([ROUND * number for number in range(len(values))], values).slope

    def __str__(self) -> str:
        more = {kind: count - self.kinds[WARM_UP].get(kind, 0) for kind, count in self.kinds[-1].items()}
        most = sorted(more.items(), key=lambda item: -item[1])[:8]
        return (
            f"{self.name}: {self.growth():+.1f} kB a call; MB {[round(value / 1024) for value in self.memory]}; tasks "
            f"{self.tasks}; threads {self.threads}; descriptors {self.descriptors}; more objects {most}"
        )


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[tuple[CountedInstallation, list[Watched]]]:
    """A provider, a control plane and an agent, each with counts."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    made = CountedInstallation(tmp_path, local_url=url, openai_url=f"{url}/v1")
    async with opened(made):
        provider, agent = made.provider(port), made.agent(PROGRAMS / "soak_agent.py")
        await made.start_provider(provider)
        await made.start_plane()
        await made.start_agent(agent)
        programs = {"provider": provider, "plane": made.plane, "agent": agent}
        yield made, [Watched(name, psutil.Process(each.pid), made.counts(name)) for name, each in programs.items()]


async def one_call(installation: CountedInstallation, number: int) -> None:
    """Make a call with one turn; each fifth caller hangs up while the answer is spoken."""
    target = f"soak.{TARGETS[number % len(TARGETS)]}"
    async with calling(installation.client, target) as live:
        if number % 5 == 4:
            await live.call.speak(tone_samples())
            await live.wait("turn.committed")
        else:
            answer = await live.say(tone_samples())
            [said] = answer.speeches
            assert said["heard_ms"] > 0, said
            assert {said.get(name) for name in ("failed", "stale", "interrupted")} <= {None, False}, said


async def sessions_left(installation: CountedInstallation) -> list[str]:
    """Return the gauges of sessions that the control plane still holds."""
    async with aiohttp.ClientSession(trust_env=False) as http, http.get(f"{installation.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return [line for line in lines if line.startswith("agentfield_sessions{") and not line.endswith(" 0.0")]


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 600)
async def test_processes_stay_flat(installation: tuple[CountedInstallation, list[Watched]]) -> None:
    """After a warm-up nothing grows with the number of calls, whatever their transport and end."""
    it, watched = installation

    async def look(*, quiet: bool = False) -> None:
        if quiet:
            await until_async(partial(sessions_left, it), lambda left: not left, seconds=180)
        for process in watched:
            await process.look(quiet=quiet)

    numbers, rounds, end = itertools.count(), 0, time.monotonic() + MINUTES * 60
    while rounds < WARM_UP + 4 or time.monotonic() < end:
        left = iter(range(ROUND))

        async def caller() -> None:
            for _ in left:  # noqa: B023 -- all callers of a round share it
                await one_call(it, next(numbers))

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        await until_async(it.client.list_sessions, lambda rows: all(row.state == "ended" for row in rows))
        rounds += 1
        await look(quiet=rounds == WARM_UP)
    await look(quiet=True)
    print(f"\n{rounds * ROUND} calls in {MINUTES:g} minutes")  # noqa: T201 -- the result of the run
    print(*watched, sep="\n")  # noqa: T201
    for process in watched:
        assert process.growth() < KILOBYTES_A_CALL, str(process)
        for values in (process.tasks, process.threads, process.descriptors):
            warm, last = (values[number] for number in process.quiet)
            assert last <= warm + SLACK, str(process)
