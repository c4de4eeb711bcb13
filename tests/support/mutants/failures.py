"""Mutants of the provider's lifetime: tasks, cancellation, hangs, blocked event loops, factories, errors and the key."""

from __future__ import annotations

from support.mutants.mutant import Edit, Mutant

__all__ = ["FAILURES"]

_OPENS = "test_a_session_opens_and_closes"
_STARTS = "test_the_adapter_starts_and_stops"
_REFUSAL = "test_a_refusal_is_reported[401]"
_UNREACHABLE = "test_an_unreachable_provider_is_reported"
_ASYNCIO = Edit(
    "adapter",
    "from collections.abc import AsyncIterator",
    "import asyncio\nimport time\nfrom collections.abc import AsyncIterator",
)
_OPEN = "        if audio != _FORMAT:\n"
_CLOSE = "        self._ending = True\n        await self._socket.close()\n"
_YIELD = "        yield Adapter(endpoint, http)\n"
_FACTORY = "    url = check_base_url("
_LOOP = "        async for message in self._socket:\n"
_CONNECT = "            socket = await self._http.ws_connect(\n                url,"
_REFUSES = 'raise refusal_error(self._endpoint, "open a session", error.status, "refused") from None'
_UNREACHED = 'raise unreachable_error(self._endpoint, "open a session", error) from None'


def _mutant(name: str, fault: str, test: str, says: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, fault, test, says, (_ASYNCIO, *(Edit("adapter", old, new) for old, new in edits)))


FAILURES = (
    _mutant(
        "leaks_a_task",
        "a task is left when a session is closed",
        _OPENS,
        "heartbeat (<coroutine object",
        (
            "        self._ending = False\n",
            '        self._ending = False\n        self._heart = asyncio.create_task(asyncio.sleep(3600), name="heartbeat")\n',
        ),
    ),
    _mutant(
        "leaks_a_stubborn_task",
        "a task is left that refuses its cancellation",
        _OPENS,
        "heartbeat was cancelled and runs on. It ignores its cancellation",
        (
            "        self._ending = False\n",
            '        self._ending = False\n        self._heart = asyncio.create_task(self._beat(), name="heartbeat")\n\n    async def _beat(self) -> None:\n        while True:\n            try:\n                await asyncio.sleep(3600)\n            except asyncio.CancelledError:\n                pass\n',
        ),
    ),
    _mutant(
        "events_swallow_cancel",
        "`events` catches its cancellation and goes on",
        "test_reading_can_be_cancelled",
        "events() ignores its cancellation, so a control plane that stops waits for it",
        (
            _LOOP,
            "        while not self._socket.closed:\n            try:\n                message = await self._socket.receive()\n            except asyncio.CancelledError:\n                continue\n",
        ),
    ),
    _mutant(
        "open_swallows_cancel",
        "`open` catches its cancellation and tries again",
        "test_opening_can_be_cancelled",
        "open() or negotiate() ignores its cancellation",
        (
            "        try:\n" + _CONNECT,
            "        while True:\n            try:\n                return await self._open(config, url)\n            except asyncio.CancelledError:\n                continue\n\n    async def _open(self, config: SessionConfig, url: str) -> Session:\n        try:\n"
            + _CONNECT,
        ),
    ),
    _mutant(
        "hangs_in_open",
        "`open` never returns",
        _OPENS,
        "the session opens: not within",
        (_OPEN, f"        await asyncio.Event().wait()\n{_OPEN}"),
    ),
    _mutant(
        "stuck_in_open",
        "`open` never returns and refuses its cancellation",
        _OPENS,
        "It ignores its cancellation: a control plane that stops would wait for it for ever",
        (
            _OPEN,
            f"        while True:\n            try:\n                await asyncio.Event().wait()\n            except asyncio.CancelledError:\n                pass\n{_OPEN}",
        ),
    ),
    _mutant(
        "hangs_in_close",
        "`close` never returns",
        _OPENS,
        "the session closes: not within",
        (_CLOSE, f"{_CLOSE}        await asyncio.Event().wait()\n"),
    ),
    _mutant(
        "leaves_open",
        "`close` does not close the connection",
        _OPENS,
        "the events end after the session was closed: not within",
        (_CLOSE, "        self._ending = True\n"),
    ),
    _mutant(
        "closes_once",
        "`close` raises the second time",
        _OPENS,
        "close() raised RuntimeError('closed already'). It detaches, raises nothing, and may be called again",
        (_CLOSE, f'        if self._ending:\n            raise RuntimeError("closed already")\n{_CLOSE}'),
    ),
    _mutant(
        "hangs_in_events",
        "`events` yields nothing",
        _OPENS,
        "expected SessionReady",
        (_LOOP, f"        await asyncio.Event().wait()\n{_LOOP}"),
    ),
    _mutant(
        "raises_in_events",
        "`events` raises",
        _OPENS,
        "KeyError('type')",
        (_LOOP, f'        raise KeyError("type")\n{_LOOP}'),
    ),
    _mutant(
        "blocks_in_open",
        "`open` blocks the event loop for ever",
        _OPENS,
        "the event loop was blocked for",
        (_OPEN, f"        time.sleep(3600)\n{_OPEN}"),
    ),
    _mutant(
        "factory_hangs",
        "the factory never yields",
        _STARTS,
        "is entered: not within",
        (_FACTORY, f"    await asyncio.Event().wait()\n{_FACTORY}"),
    ),
    _mutant(
        "factory_raises",
        "the factory raises",
        _STARTS,
        "ZeroDivisionError",
        (_FACTORY, f"    print(1 / 0)\n{_FACTORY}"),
    ),
    _mutant(
        "factory_stays",
        "the factory does not exit",
        _STARTS,
        "is left when the control plane stops: not within",
        (_YIELD, f"{_YIELD}        await asyncio.Event().wait()\n"),
    ),
    _mutant(
        "factory_bare",
        "the factory is not decorated with `asynccontextmanager`",
        _STARTS,
        "returns a async generator, not an async context manager",
        ("@asynccontextmanager\n", ""),
    ),
    _mutant("yields_nothing", "the factory yields None", _STARTS, "yields nothing", (_YIELD, "        yield None\n")),
    _mutant(
        "raw_refusal",
        "a refusal is the HTTP library's own error",
        _REFUSAL,
        "open() or negotiate() raised WSServerHandshakeError; raise a ProviderError instead",
        (_REFUSES, "raise"),
    ),
    _mutant(
        "raw_unreachable",
        "an unreachable provider is the HTTP library's own error",
        _UNREACHABLE,
        "open() or negotiate() raised ClientConnectorError; raise a ProviderError instead",
        (_UNREACHED, "raise"),
    ),
    _mutant(
        "nameless_refusal",
        "a refusal does not name the provider",
        _REFUSAL,
        "the message does not name the provider",
        (_REFUSES, 'raise ProviderError("The service says no.") from None'),
        (
            "from agentfield.errors import CapabilityMissing, ProviderUnavailable",
            "from agentfield.errors import CapabilityMissing, ProviderError, ProviderUnavailable",
        ),
    ),
    _mutant(
        "not_unavailable",
        "an unreachable provider is no `ProviderUnavailable`",
        _UNREACHABLE,
        "not reported as ProviderUnavailable",
        (_UNREACHED, 'raise ProviderError("Not Unavailable: the service says no.") from None'),
        (
            "from agentfield.errors import CapabilityMissing, ProviderUnavailable",
            "from agentfield.errors import CapabilityMissing, ProviderError, ProviderUnavailable",
        ),
    ),
    _mutant(
        "key_in_error",
        "a refusal quotes the key",
        _REFUSAL,
        "the provider's key is in a value that the session shows",
        (_REFUSES, 'raise ProviderError(f"Key In Error refused {self._endpoint.bearer()}.") from None'),
        (
            "from agentfield.errors import CapabilityMissing, ProviderUnavailable",
            "from agentfield.errors import CapabilityMissing, ProviderError, ProviderUnavailable",
        ),
    ),
    _mutant(
        "key_in_log",
        "the key is in a log line",
        _OPENS,
        "the provider's key is in a log line",
        (_OPEN, f'        logging.getLogger("acme").debug("headers %s", self._endpoint.bearer())\n{_OPEN}'),
        ("import asyncio\nimport time\n", "import asyncio\nimport logging\nimport time\n"),
    ),
    _mutant(
        "own_address",
        "the adapter ignores the address that it is given",
        _OPENS,
        "could not be reached",
        ("check_base_url(runtime.base_url, ", 'check_base_url("http://127.0.0.1:9", '),
    ),
)
