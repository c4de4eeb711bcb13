"""Sessions and adapters with faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from agentfield.errors import ProviderError
from agentfield.realtime.commands import Command, SayCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event, SessionClosed
from agentfield.realtime.provider import AdapterRuntime, ProviderSession
from agentfield_tones.adapter import tones

_KEPT: set[asyncio.Task[None]] = set()


class FaultySession:
    """A session that passes everything through; base class of the faults."""

    def __init__(self, session: ProviderSession) -> None:
        self._session = session

    async def send(self, command: Command) -> None:
        await self._session.send(command)

    async def events(self) -> AsyncIterator[Event]:
        async for event in self._session.events():
            yield event

    async def close(self) -> None:
        await self._session.close()


class Leaky(FaultySession):
    """Leaks a task."""

    def __init__(self, session: ProviderSession) -> None:
        super().__init__(session)
        task = asyncio.create_task(asyncio.Event().wait(), name="heartbeat that nobody stops")  # type: ignore[arg-type]
        _KEPT.add(task)  # type: ignore[arg-type]


class Wordy(FaultySession):
    """Adds words to a say."""

    async def send(self, command: Command) -> None:
        if isinstance(command, SayCommand):
            command = command.model_copy(update={"text": f"Sure! {command.text}"})
        await super().send(command)


class Silent(FaultySession):
    """Never emits `SessionClosed`."""

    async def events(self) -> AsyncIterator[Event]:
        async for event in super().events():
            if not isinstance(event, SessionClosed):
                yield event


class Adapter:
    """The tone provider's adapter, with sessions that have a fault."""

    def __init__(self, inner: Any, wrap: Callable[[Any], Any], secret: str | None = None) -> None:
        self._inner = inner
        self._wrap = wrap
        self._secret = secret
        self.formats = inner.formats

    async def open(self, config: SessionConfig, audio: Any) -> Any:
        try:
            return self._wrap(await self._inner.open(config, audio))
        except ProviderError as error:
            if self._secret is None:
                raise
            raise ProviderError(f"Telling refused the key {self._secret}.") from error


@asynccontextmanager
async def _odd(wrap: Callable[[Any], Any], runtime: AdapterRuntime) -> AsyncIterator[Adapter]:
    async with tones(runtime) as inner:
        yield Adapter(inner, wrap)


leaky, wordy, silent, lonely = (partial(_odd, wrap) for wrap in (Leaky, Wordy, Silent, FaultySession))


@asynccontextmanager
async def telling(runtime: AdapterRuntime) -> AsyncIterator[Adapter]:
    async with tones(runtime) as inner:
        yield Adapter(inner, FaultySession, runtime.key.get_secret_value() if runtime.key else None)
