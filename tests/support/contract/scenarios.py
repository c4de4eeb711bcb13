"""Scenarios: a call that proves a capability, run over each pair that declares it and with each behaviour variant that matters."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agentfield import Agent
from agentfield_local.server import LocalServer
from support.contract.installation import SELECTED, Installation, Pair, installation, name_of, selected
from support.contract.leaks import own_tasks, tasks_are_over
from support.contract.variants import USUAL, packed, prepare, single

__all__ = ["Case", "Proof", "on_pairs", "proof", "run_concurrently"]

CONCURRENCY = 5
"""Calls that run at the same time; each mostly waits for sound to pass, and more of them would miss deadlines on a busy machine."""


ALL_VARIANTS = SELECTED is not None or "CONTRACT_ALL_VARIANTS" in os.environ
"""Whether scenarios run with all variants on all pairs; otherwise variants are combined, and a `local` pair runs only what
its counterpart does not."""

COUNTERPARTS: dict[Pair, Pair] = {
    ("local", "webrtc"): ("openai", "webrtc"),
    ("local", "websocket"): ("openai", "websocket"),
    ("local", "audio_turns"): ("openrouter", "audio_turns"),
}
"""The pairs whose adapters the `local` pairs use."""

ALONE: frozenset[Pair] = frozenset({("openai", "websocket"), ("openrouter", "audio_turns")})
"""Pairs on which each variant is tried by itself when all variants run."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a scenario."""

    folder: Path
    pair: Pair
    variants: tuple[str, ...] = (USUAL,)
    """The behaviour variants that the provider has at once."""

    def __str__(self) -> str:
        return f"{name_of(self.pair)} {'+'.join(self.variants)}"

    def prepare(self, server: LocalServer) -> None:
        """Give the provider these variants."""
        prepare(server, self.pair, self.variants)

    def installation(self, app: Agent | None = None, **how: Any) -> AbstractAsyncContextManager[Installation]:
        """Run an installation whose provider has these variants; see `installation`."""
        return installation(self.folder, app, prepare=self.prepare, **how)


class Proof(Protocol):
    """A test that says on which pairs it runs."""

    pairs: frozenset[Pair]
    matters: tuple[str, ...]
    """The variants that matter for what it proves."""

    def __call__(self, tmp_path: Path) -> Awaitable[None]:
        """Run it."""


def on_pairs(*pairs: Pair) -> Callable[[Callable[[Path], Awaitable[None]]], Proof]:
    """Declare on which pairs a test runs that is no scenario."""

    def made(test: Callable[[Path], Awaitable[None]]) -> Proof:
        test.pairs, test.matters = frozenset(pairs), ()  # type: ignore[attr-defined]
        return test  # type: ignore[return-value]

    return made


def proof(
    pairs: Iterable[Pair], *matters: Sequence[str], **parameters: Sequence[Any]
) -> Callable[[Callable[..., Awaitable[None]]], Proof]:
    """Make a test of a scenario: on all these pairs, with all variants that matter there, with all parameters.

    Variants that do not exclude each other are combined, and a `local` pair, whose adapter is that of another pair, runs only
    where that pair does not. A run of one pair and `nox -s long` go further: `openai/websocket` and `openrouter/audio_turns`
    run with each variant by itself, the `local` pairs with combined ones.

    Args:
        pairs: Where it runs.
        matters: Groups of variants that matter for what it proves; each pair takes those that its protocol has.
        parameters: Values for further arguments of the scenario, each combined with each.
    """
    on = tuple(pairs)
    names = tuple(itertools.chain.from_iterable(matters))

    def made(scenario: Callable[..., Awaitable[None]]) -> Proof:
        async def test(tmp_path: Path) -> None:
            await run(
                scenario, tmp_path, [pair for pair in on if selected(pair) and _adds(pair, on)], names, parameters
            )

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
    parameters: dict[str, Sequence[Any]],
) -> None:
    """Run all cases of a scenario."""
    ways = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())]
    works = []
    for case in [case for pair in pairs for case in _cases(folder, pair, names)]:
        for way in ways:
            here = replace(case, folder=folder / str(len(works)))
            works.append((f"{case} {way or ''}", partial(scenario, here, **way)))
    await run_concurrently(works)


def _adds(pair: Pair, on: Sequence[Pair]) -> bool:
    return ALL_VARIANTS or COUNTERPARTS.get(pair) not in on


def _cases(folder: Path, pair: Pair, names: Sequence[str]) -> Iterator[Case]:
    yield Case(folder, pair)
    if pair[0] == "local" and not ALL_VARIANTS:
        return
    groups = ((name,) for name in single(pair, names)) if pair in ALONE and ALL_VARIANTS else packed(pair, names)
    yield from (Case(folder, pair, group) for group in groups)


async def run_concurrently(
    works: Iterable[tuple[str, Callable[[], Awaitable[None]]]], *, torn: Iterable[str] = ()
) -> None:
    """Run these at the same time; each must end all tasks that it creates.

    Args:
        works: What to run, by name.
        torn: Names of those that tear a WebRTC connection down while it is being made.

    Raises:
        ExceptionGroup: One or more failed; the message names them.
    """
    gate = asyncio.Semaphore(CONCURRENCY)
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
        raise ExceptionGroup(f"{len(failed)} of {len(named)}: {', '.join(_name(each) for each in failed)}", failed)


def _name(error: Exception) -> str:
    return error.__notes__[-1].removeprefix("in ")
