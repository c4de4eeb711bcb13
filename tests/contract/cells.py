"""How a capability is proven: one scenario, over each pair that declares it, in each position that matters, at the same time."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agentfield import Agent
from agentfield_local.server import LocalServer
from contract.contract_kit import Installation, Pair, installation, name_of
from contract.leftovers import own_tasks, tasks_are_over
from contract.positions import USUAL, packed, prepare, single

__all__ = ["Cell", "Proof", "everywhere", "proof"]

AT_ONCE = 8
"""Calls that are made at the same time; each of them mostly waits for sound to pass."""


ALONE: frozenset[Pair] = frozenset({("openai", "websocket"), ("openrouter", "audio_turns")})
"""Pairs on which each position is tried by itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a scenario runs."""

    folder: Path
    pair: Pair
    positions: tuple[str, ...] = (USUAL,)
    """The positions that the provider is in at once."""

    def __str__(self) -> str:
        return f"{name_of(self.pair)} {'+'.join(self.positions)}"

    def prepare(self, server: LocalServer) -> None:
        """Put the provider into the position."""
        prepare(server, self.pair, self.positions)

    def installation(self, app: Agent | None = None, **how: Any) -> AbstractAsyncContextManager[Installation]:
        """Run an installation whose provider is in the position; see `installation`."""
        return installation(self.folder, app, prepare=self.prepare, **how)


class Proof(Protocol):
    """A test that says where it runs."""

    pairs: frozenset[Pair]
    matters: tuple[str, ...]
    """The positions that matter for what it proves."""

    def __call__(self, tmp_path: Path) -> Awaitable[None]:
        """Run it."""


def proof(
    pairs: Iterable[Pair], *matters: Sequence[str], **variants: Sequence[Any]
) -> Callable[[Callable[..., Awaitable[None]]], Proof]:
    """Make a test of a scenario: on all these pairs, in all positions that matter there, in all its variants.

    `openai/websocket` and `openrouter/audio_turns` run in each position by itself. The others have the same codecs, over
    another medium or at another address: there positions that can be taken at once are.

    Args:
        pairs: Where it runs.
        matters: Groups of positions that matter for what it proves; each pair takes those that its protocol has.
        variants: Values for further arguments of the scenario, each with each.
    """
    on = tuple(pairs)
    names = tuple(itertools.chain.from_iterable(matters))

    def made(scenario: Callable[..., Awaitable[None]]) -> Proof:
        async def test(tmp_path: Path) -> None:
            await run(scenario, tmp_path, on, names, variants)

        test.__name__, test.__qualname__ = scenario.__name__, scenario.__qualname__
        test.__module__, test.__doc__ = scenario.__module__, scenario.__doc__
        test.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        )
        test.pairs, test.matters = frozenset(on), names  # type: ignore[attr-defined]
        return test  # type: ignore[return-value]

    return made


async def run(
    scenario: Callable[..., Awaitable[None]],
    folder: Path,
    pairs: Sequence[Pair],
    names: Sequence[str],
    variants: dict[str, Sequence[Any]],
) -> None:
    """Run a scenario in all its cells."""
    ways = [dict(zip(variants, values, strict=True)) for values in itertools.product(*variants.values())]
    works = []
    for cell in [cell for pair in pairs for cell in _cells(folder, pair, names)]:
        for way in ways:
            here = replace(cell, folder=folder / str(len(works)))
            works.append((f"{cell} {way or ''}", partial(scenario, here, **way)))
    await everywhere(works)


def _cells(folder: Path, pair: Pair, names: Sequence[str]) -> Iterator[Cell]:
    yield Cell(folder, pair)
    groups = ((name,) for name in single(pair, names)) if pair in ALONE else packed(pair, names)
    yield from (Cell(folder, pair, group) for group in groups)


async def everywhere(works: Iterable[tuple[str, Callable[[], Awaitable[None]]]], *, torn: Iterable[str] = ()) -> None:
    """Do these at the same time, each of which must end all the tasks that it made; tell of each that failed, by its name.

    Args:
        works: What to do, by name.
        torn: Names of those that tear a WebRTC line down while it is being made.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    named = list(works)

    async def one(name: str, work: Callable[[], Awaitable[None]]) -> None:
        async with gate:
            own = own_tasks()
            try:
                await work()
                await tasks_are_over(own, torn=name in torn)
            except Exception as error:
                error.add_note(f"in {name}")
                raise

    found = await asyncio.gather(*(one(*each) for each in named), return_exceptions=True)
    failed = [each for each in found if isinstance(each, Exception)]
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(named)}: {', '.join(_where(each) for each in failed)}", failed)


def _where(error: Exception) -> str:
    return error.__notes__[-1].removeprefix("in ")
