"""A telephone call over Telnyx: the fake of its plugin delivers the events, a telephone opens the stream and plays in real time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

import agentfield_telnyx.plugin
from agentfield import Agent
from agentfield_telnyx.peer import FakeTelnyx, fake_telnyx
from support.callers.telephone import Exchange, Phone, exchange

__all__ = ["API_KEY", "BASE", "CALL", "FROM", "TelnyxExchange", "TelnyxPhone", "telnyx_exchange"]

BASE = "/api/v1/transports/telnyx"
API_KEY = "KEY-telnyx-canary-0f8a6b2c4d9e"
CALL = "v3:T02llQxIyaRkhfRKxgAP8nY511EhFLizdvdUKJiSw8d6A9BborherQ"
FROM = "+4917012345"
STREAM = "32DE0DEA-53CB-4B21-89A4-9E1819C043BC"
TOKEN_HEADER = "x-telnyx-streaming-auth-token"


class TelnyxPhone(Phone):
    """One stream of a call; a task of its own plays what is received in real time.

    Args:
        socket: The open stream.
        call: The call control id.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, call: str) -> None:
        super().__init__(socket)
        self._call = call
        self._late: tuple[int, bytes] | None = None

    async def press(self, digit: str) -> None:
        """Press a key."""
        await self.send("dtmf", occurred_at="2025-11-23T03:30:00.076316Z", dtmf={"digit": digit})

    async def hang_up(self) -> None:
        """Hang up: Telnyx says stop and closes the stream."""
        await self.send("stop", stop={"user_id": "3E6F995F", "call_control_id": self._call})
        await self.leave()

    async def send(self, event: str, **parts: Any) -> None:
        """Send a message of the stream."""
        self._number += 1
        about = {"sequence_number": str(self._number), "stream_id": STREAM}
        await self.socket.send_json({"event": event, **about, **parts})

    async def send_audio(self, number: int, frame: bytes) -> None:
        """Send 20 ms of audio; every tenth message is overtaken by the next, since their order is not promised."""
        if number % 10 == 1:
            self._late = (number, frame)
            return
        await super().send_audio(number, frame)
        if self._late is not None:
            late, self._late = self._late, None
            await super().send_audio(*late)

    def check(self, told: dict[str, Any]) -> None:
        """Check the form of a message that was received."""
        assert set(told) == {"event"} | ({told["event"]} & {"media", "mark"})


@dataclass
class TelnyxExchange:
    """An installation that the fake Telnyx can reach."""

    it: Exchange
    telnyx: FakeTelnyx

    def webhook(self, target: str) -> str:
        """Return the URL of the webhook of a session."""
        return f"{self.it.plane.url}{BASE}/voice/{target}"

    async def ring(self, target: str, *, call: str = CALL, caller: str | None = FROM) -> dict[str, Any]:
        """Call a number; return the command that starts its stream."""
        url, ends = self.webhook(target), {"from": caller, "to": "+4930123"}
        status, text = await self.telnyx.send_event(
            url, "call.initiated", call, direction="incoming", state="parked", **ends
        )
        assert status == 200, text
        state = self.telnyx.command(call, "answer")["client_state"]
        status, text = await self.telnyx.send_event(url, "call.answered", call, client_state=state, **ends)
        assert status == 200, text
        return self.telnyx.command(call, "streaming_start")

    async def open(
        self, wanted: dict[str, Any], *, call: str = CALL, caller: str | None = FROM, encoding: str = "PCMU"
    ) -> TelnyxPhone:
        """Open the stream of a call."""
        token = {TOKEN_HEADER: wanted["stream_auth_token"]}
        socket = await self.it.http.ws_connect(wanted["stream_url"], headers=token)
        await socket.send_json({"event": "connected", "version": "1.0.0", "connected": token})
        start = {
            "user_id": "3E6F995F-85F7-4705-9741-53B116D28237",
            "call_control_id": call,
            "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
            "from": caller,
            "to": "+4930123",
            "client_state": wanted["client_state"],
            "media_format": {"encoding": encoding, "sample_rate": 8000, "channels": 1},
        }
        await socket.send_json({"event": "start", "sequence_number": "1", "stream_id": STREAM, "start": start})
        phone = TelnyxPhone(socket, call)
        self.it.phones.append(phone)
        return phone


@asynccontextmanager
async def telnyx_exchange(
    home: Path, app: Agent, *, hears: tuple[str, ...] = ("hello",), environ: Mapping[str, str] | None = None
) -> AsyncIterator[TelnyxExchange]:
    """Run an installation with the transport; afterwards no task of it may be left.

    Args:
        home: The control plane's folder.
        app: The agent.
        hears: The transcripts of the provider, turn by turn.
        environ: Settings instead of the fake's, by their names.
    """
    async with (
        fake_telnyx(API_KEY) as (telnyx, _),
        exchange(
            home,
            app,
            hears=hears,
            environ={**telnyx.settings, **(environ or {})},
            plugins=[agentfield_telnyx.plugin],
        ) as it,
    ):
        yield TelnyxExchange(it, telnyx)
