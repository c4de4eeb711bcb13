"""Session limits of a provider's keys: starts beyond them are refused, sessions are spread over the keys, keys are never shown."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from support.providers.keyed_turns import KEYS, SETTING, KeyedTurnsPlugin
from support.providers.scripted_turns import message_types
from support.server.recorded_turns import Installation, run_installation

ONE = {"kiosk": 1}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


def keyed(home: Path, *keys: str) -> AbstractAsyncContextManager[Installation]:
    """Run an installation in which each key of the provider may have one session."""
    return run_installation(home, plugin=KeyedTurnsPlugin(), environ={SETTING: ", ".join(keys)}, concurrency=ONE)


async def start(it: Installation, target: str = "kiosk.counter") -> tuple[int, dict[str, Any], str | None]:
    """Ask for a session over REST; return the status, the answer and its Retry-After."""
    async with it.http.post(f"{it.plane.url}/api/v1/sessions", json={"target": target}) as response:
        return response.status, json.loads(await response.text()), response.headers.get("Retry-After")


def everything(folder: Path) -> bytes:
    """Return the content of all files of a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_second_session_is_refused_before_the_provider_is_asked(tmp_path: Path) -> None:
    """With one session per key a second start is 429 with Retry-After on every transport; it succeeds after the first session ended."""
    async with keyed(tmp_path, KEYS[0]) as it:
        status, first, _ = await start(it)
        assert status == 201
        for target in ("kiosk.counter", "kiosk.websocket", "kiosk.webrtc"):
            status, problem, later = await start(it, target)
            assert (status, problem["code"], later) == (429, "provider_busy", "5")
            assert "AGENTFIELD_PROVIDER_CONCURRENCY" in problem["hint"]
        assert it.script.sessions == []
        assert len(await it.client.list_sessions()) == 1
        await it.answer(first["session_id"])
        assert (await start(it))[0] == 429
        await it.client.end_session(first["session_id"])
        assert (await start(it))[0] == 201


async def test_a_failed_start_uses_no_slot(tmp_path: Path) -> None:
    """Starts that are refused for another reason do not count against the limit."""
    async with keyed(tmp_path, KEYS[0]) as it:
        assert (await start(it, "kiosk.nobody"))[0] == 404
        assert (await start(it))[0] == 201


async def test_sessions_are_spread_over_the_keys(tmp_path: Path) -> None:
    """Two keys have one session each, with one adapter per key; a third start is refused until a session ends."""
    async with keyed(tmp_path, *KEYS) as it:
        sessions = [(await start(it))[1]["session_id"] for _ in KEYS]
        assert (await start(it))[0] == 429
        for session_id in sessions:
            assert message_types(await it.answer(session_id))[-1] == "execution.ended"
        assert Counter(it.script.keys) == Counter(KEYS)
        await it.client.end_session(sessions[0])
        assert (await start(it))[0] == 201
        assert Counter(it.script.keys) == Counter(KEYS)


async def test_sessions_keep_their_slots_over_a_restart(tmp_path: Path) -> None:
    """Sessions that continue after a restart still count against the limit."""
    async with keyed(tmp_path, KEYS[0]) as it:
        _, first, _ = await start(it)
        await it.answer(first["session_id"])
    async with keyed(tmp_path, KEYS[0]) as it:
        assert (await start(it))[0] == 429
        await it.client.end_session(first["session_id"])
        assert (await start(it))[0] == 201


async def test_no_key_is_shown_or_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No response, event, log line or file has a key; the stored call has its fingerprint."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    async with keyed(tmp_path, *KEYS) as it:
        _, first, _ = await start(it)
        session_id = first["session_id"]
        told += [str(first), str((await start(it))[1]), str((await start(it))[1])]
        told.append(str(await it.answer(session_id)))
        row = await it.plane.sessions._store.get_session(session_id)
        assert row is not None
        assert row.call_ref is not None
        assert len(row.call_ref["credential"]) == 10
        await it.client.end_session(session_id)
        paths = (
            "sessions",
            f"sessions/{session_id}",
            f"sessions/{session_id}/events",
            "nodes",
            "adapters",
            "openapi.json",
        )
        for path in paths:
            async with it.http.get(f"{it.plane.url}/api/v1/{path}") as response:
                told.append(await response.text())
        assert row.call_ref["credential"] not in "".join(told)
    stored = everything(tmp_path)
    for key in KEYS:
        assert key not in "".join(told)
        assert key not in caplog.text
        assert key.encode() not in stored
