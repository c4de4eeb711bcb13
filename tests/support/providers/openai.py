"""Support of the Realtime adapter tests: configurations, type checks of sent events, and a runtime for factories."""

from __future__ import annotations

import asyncio
import collections.abc
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions
from openai.types.realtime import RealtimeClientEventParam, RealtimeSessionCreateRequestParam
from pydantic import SecretStr

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import Command
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec, TurnDetection
from agentfield.realtime.events import Event
from agentfield.realtime.provider import ProviderSession
from agentfield_openai.codec import Codec
from support.waiting import SECONDS

__all__ = [
    "CANARY",
    "PCM",
    "Runtime",
    "Seen",
    "check_client_event",
    "check_session",
    "config",
    "decode",
    "misfit",
    "tool",
]

CANARY = "sk-canary-Zq81xYv0pLmW77"
"""A key that must appear nowhere but in the header that carries it."""

PCM = AudioFormat("pcm16", 24_000)

SERVER_VAD = ServerVad()


def misfit(value: Any, hint: Any, where: str = "$") -> str | None:
    """Return where a JSON value differs from a TypedDict, unknown and missing keys included; None if it fits."""
    if typing_extensions.is_typeddict(hint):
        return _misfit_object(value, hint, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is not None and typing_extensions.is_protocol(origin):
        origin = Iterable  # the client's own "sequence that is not a string"
    if origin in (Union, UnionType):
        found = [misfit(value, each, where) for each in args]
        return None if None in found else min((each for each in found if each), key=lambda each: -each.count("."))
    if origin is Literal:
        return None if value in args else f"{where}: {value!r} is none of {args}"
    if origin in (list, Iterable, collections.abc.Iterable, collections.abc.Sequence):
        if not isinstance(value, list):
            return f"{where}: not a list"
        return next(filter(None, (misfit(each, args[0], f"{where}.{n}") for n, each in enumerate(value))), None)
    if origin is dict:
        fits = isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair)
        return None if fits else f"{where}: not strings by name"
    if hint in (object, Any):
        return None
    kinds = {float: (int, float), None: (type(None),)}.get(hint, (hint,))
    fits = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    return None if fits else f"{where}: {value!r} is not {hint}"


def _misfit_object(value: Any, hint: Any, where: str) -> str | None:
    hints = typing_extensions.get_type_hints(hint)
    if not isinstance(value, dict):
        return f"{where}: not an object"
    for key in value.keys() - hints.keys():
        return f"{where}.{key}: unknown to {hint.__name__}"
    for key in hint.__required_keys__ - value.keys():
        return f"{where}.{key}: missing"
    return next(filter(None, (misfit(each, hints[key], f"{where}.{key}") for key, each in value.items())), None)


def check_client_event(event: dict[str, Any]) -> None:
    """Fail unless an event fits the official client's type."""
    assert misfit(event, RealtimeClientEventParam) is None, misfit(event, RealtimeClientEventParam)


def check_session(session: dict[str, Any]) -> None:
    """Fail unless a session object fits the official client's type."""
    assert misfit(session, RealtimeSessionCreateRequestParam) is None, misfit(
        session, RealtimeSessionCreateRequestParam
    )


def tool(target: str, description: str = "A tool.") -> ToolSpec:
    parameters = {
        "type": "object",
        "properties": {"order_id": {"type": "string"}},
        "required": ["order_id"],
        "additionalProperties": False,
    }
    return ToolSpec(target=target, description=description, parameters=parameters)


def config(
    *,
    floor: str = "handler",
    tools: Sequence[ToolSpec] = (),
    instructions: str | None = "You help with orders.",
    turn_detection: TurnDetection | None = SERVER_VAD,
    transcription: str | None = "gpt-transcribe",
    model: str = "gpt-realtime-2",
    voice: str | None = "marin",
    **declared: Any,
) -> SessionConfig:
    declaration = SessionDeclaration.model_validate(
        {
            "name": "voice",
            "provider": "openai",
            "transport": "webrtc",
            "floor": floor,
            "tools": tuple(spec.target for spec in tools),
            "instructions": instructions,
            "turn_detection": turn_detection,
            **declared,
        }
    )
    return SessionConfig(
        session_id="ses_1",
        target="voice-support.voice",
        declaration=declaration,
        model=model,
        voice=voice,
        transcription=transcription,
        turn_detection=turn_detection,
        tools=tuple(tools),
        safety_id="hash-of-the-caller",
    )


def decode(codec: Codec, *events: dict[str, Any], now: float = 100.0) -> list[Event]:
    """Pass server events to a codec, each with an id of its own unless it has one."""
    out: list[Event] = []
    for event in events:
        decode.count += 1  # type: ignore[attr-defined]
        out += codec.decode(json.dumps({"event_id": f"event_{decode.count}", **event}), now)  # type: ignore[attr-defined]
    return out


decode.count = 0  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Child:
    first_line: str


@dataclass(frozen=True)
class Runtime:
    """The services that a control plane passes to a factory."""

    base_url: str
    key: SecretStr | None = None
    data_dir: Path = Path()
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("agentfield.adapter.test"))
    started: list[Sequence[str]] | None = None

    def clock(self) -> float:
        return time.time()

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> AbstractAsyncContextManager[Any]:
        return self._child(argv, ready_timeout)

    @asynccontextmanager
    async def _child(self, argv: Sequence[str], ready_timeout: float) -> Any:
        if self.started is not None:
            self.started.append(argv)
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(ready_timeout):
                line = await process.stdout.readline()  # type: ignore[union-attr]
            yield _Child(line.decode().strip())
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


class Seen:
    """Iterates the events of a session in the background and lets a test wait for some of them."""

    def __init__(self, session: ProviderSession) -> None:
        self.session = session
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.session.events():
            self.events.append(event)
            self._news.set()

    async def wait(
        self, kind: type[Any], when: Callable[[Any], bool] = lambda _: True, seconds: float = SECONDS
    ) -> Any:
        async with asyncio.timeout(seconds):
            while not (found := [e for e in self.events if isinstance(e, kind) and when(e)]):
                self._news.clear()
                await self._news.wait()
        return found[0]

    async def send(self, *commands: Command) -> None:
        for command in commands:
            await self.session.send(command)
