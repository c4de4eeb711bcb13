"""`af demo --once --json` as a user types it: one real call on any machine, with or without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.word_error_rate import word_error_rate

pytestmark = [pytest.mark.speech, pytest.mark.realtime]

AF = str(Path(sys.executable).with_name("af"))
ONCE = [AF, "demo", "--once", "--json"]
NAMESPACE = ["unshare", "-rn"]
SECONDS = 100.0
TARGET = "voice-support.voice"
TOOL = "voice-support.resolve_turn"
WORDS = "where is my order number four two seven"
REPLY = "I found the order. It's stuck in customs — want me to start a replacement?"

ONLY_LO = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
assert [name for _, name in socket.if_nameindex()] == ["lo"]
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Brings up `lo` in a network namespace that has nothing else, and becomes the program that is named behind it."""


@dataclass(frozen=True)
class Demos:
    """Demos that run at the same time, each in its own process, as those of several users of one machine."""

    ordinary: subprocess.Popen[str]
    only_lo: subprocess.Popen[str] | None
    """None if the system allows no namespaces."""
    why: str
    """The system's error if it allows no namespaces."""
    home: Path


def begin(*command: str, home: Path) -> subprocess.Popen[str]:
    """Start a command without any setting of ours in its environment."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFIELD_", "OPENAI_"))}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env={**own, "HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
    )


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demos]:
    """One demo as usual, one in a namespace with only `lo`."""
    home = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        probe = begin(*NAMESPACE, "true", home=home) if shutil.which(NAMESPACE[0]) else None
        why = probe.communicate(timeout=20)[1] if probe is not None else f"there is no {NAMESPACE[0]}"
        allowed = probe is not None and probe.returncode == 0
        ordinary = stack.enter_context(begin(*ONCE, home=home))
        stack.callback(ordinary.terminate)
        only_lo = None
        if allowed:
            only_lo = stack.enter_context(begin(*NAMESPACE, sys.executable, "-c", ONLY_LO, *ONCE, home=home))
            stack.callback(only_lo.terminate)
        yield Demos(ordinary, only_lo, why, home)


def the_call_is_whole(printed: str) -> None:
    """Check everything that the command promises of a successful call."""
    told: dict[str, Any] = json.loads(printed)
    assert set(told) == {
        "session_id",
        "provider",
        "transport",
        "turns",
        "reply_heard",
        "executions",
        "timings",
        "usage",
        "cost",
        "page_url",
        "verified",
    }
    assert told["session_id"].startswith("ses_")
    assert (told["provider"], told["transport"]) == ("local", "webrtc")
    (turn,) = told["turns"]
    assert set(turn) == {"caller", "asked", "generated", "heard_ms"}
    assert (turn["asked"], turn["generated"]) == (REPLY, REPLY)
    assert 3_000 < turn["heard_ms"] < 10_000
    assert word_error_rate([(WORDS, turn["caller"])]) <= 0.15, turn["caller"]
    assert word_error_rate([(turn["asked"], told["reply_heard"])]) <= 0.15, told["reply_heard"]
    the_tree_is_right(told["executions"])
    verified = told["verified"]
    assert set(verified) == {"issuer", "credentials", "events", "verdict"}
    assert (verified["credentials"], verified["verdict"]) == (len(told["executions"]), "complete")
    assert verified["issuer"].startswith("did:key:z6Mk")
    assert verified["events"] > 10
    (timing,) = told["timings"]
    assert set(timing) == {"offer_to_answer_ms", "end_of_speech_to_first_audio_ms", "tool_dispatch_ms"}
    assert all(value > 0 for value in timing.values())
    assert timing["end_of_speech_to_first_audio_ms"] > 500  # the silence that ends a turn
    assert told["page_url"].startswith("http://127.0.0.1:")
    assert "#code=" in told["page_url"]


def the_tree_is_right(executions: list[dict[str, Any]]) -> None:
    """Check that the session holds the turn, and the turn holds the call of the reasoner."""
    session, turn, call = executions
    assert {frozenset(each) for each in executions} == {frozenset({"id", "kind", "target", "parent", "status"})}
    assert (session["kind"], session["target"], session["parent"]) == ("session", TARGET, None)
    assert (turn["kind"], turn["target"], turn["parent"]) == ("turn", TARGET, session["id"])
    assert (call["kind"], call["target"], call["parent"]) == ("call", TOOL, turn["id"])
    assert {each["status"] for each in executions} == {"succeeded"}


def test_one_command_makes_a_complete_call(demos: Demos) -> None:
    """The command exits with 0 and prints one object with exactly the promised fields."""
    out, err = demos.ordinary.communicate(timeout=SECONDS)
    assert (demos.ordinary.returncode, err) == (0, ""), out + err
    the_call_is_whole(out)


def test_a_machine_without_a_network_makes_the_same_call(demos: Demos) -> None:
    """In a network namespace with only `lo` the demo works alike; without namespaces the test says why it is skipped."""
    if demos.only_lo is None:
        assert sys.platform != "linux" or "not permitted" in demos.why or "denied" in demos.why, demos.why
        return
    out, err = demos.only_lo.communicate(timeout=SECONDS)
    assert (demos.only_lo.returncode, err) == (0, ""), out + err
    the_call_is_whole(out)


def test_nothing_is_left_behind(demos: Demos) -> None:
    """A demo keeps its data in a folder that it removes."""
    for demo in (demos.ordinary, demos.only_lo):
        if demo is not None:
            demo.communicate(timeout=SECONDS)
    assert list(demos.home.iterdir()) == []
