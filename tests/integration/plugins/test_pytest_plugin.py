"""The pytest plugin in a user's project: passing tests, and the messages of failing tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree as ET

import pytest

from support.paths import ROOT

PAGE = ROOT / "docs" / "testing.md"

AGENT = """
from agentfield import Agent

app = Agent(node_id="shop", url="http://127.0.0.1:2")


@app.reasoner()
async def look(number: str) -> dict:
    if number == "0":
        raise ValueError("there is no order 0")
    return {"state": "lost"}


@app.session("voice", provider="openai", transport="webrtc", model="gpt-realtime-2", tools=["shop.look"])
async def voice(session):
    turn = await session.input()
    found = await session.call("shop.look", number=turn.text)
    await session.say(f"Order {turn.text} is {found['state']}. I am sorry.")


app.run()
"""

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

TESTS = """
import asyncio

from agentfield import Agent

app = Agent("shop")


@app.session("voice", provider="scripted", transport="websocket")
async def voice(session): ...


async def test_found(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427")
        await turn.calls("shop.look").with_input(number="427").succeeded({"state": "lost"})
        await turn.speaks("Order 427 is lost.")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_left_of_others(call, agentfield_client):
    assert await agentfield_client.list_sessions() == []
    async with call("agent.py:app", session="shop.voice") as caller:
        assert await caller.run("512") == "Order 512 is lost. I am sorry."
    assert len(await agentfield_client.list_sessions()) == 1


async def test_words(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427")
        await turn.speaks("is found")


async def test_manner(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427", pause="Order 427")
        await caller.says("512")
        await turn.speaks("Order 427")


async def test_input(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427")
        await turn.calls("shop.look").with_input(number="428")


async def test_other(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427")
        await turn.calls("shop.find")


async def test_failed(call):
    async with call("agent.py") as caller:
        turn = await caller.says("0")
        await turn.calls("shop.look").succeeded()


async def test_never(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427")
        await turn.ended()
        await turn.calls("shop.look").never()


async def test_deadline(call):
    async with call("agent.py") as caller:
        await caller.speaks("a greeting").within(0.2)


async def test_unawaited(call):
    async with call("agent.py") as caller:
        turn = await caller.says("427")
        turn.speaks("is found")
        turn.calls("shop.look").with_input(number="1").succeeded()


async def test_plain(call):
    async with call("agent.py") as caller:
        assert await caller.run("427") == "nothing"


async def test_unseen(call):
    async with call("agent.py") as caller:
        await (await caller.says("0")).ended()


async def test_too_little(call):
    async with call(app) as caller:
        await caller.says("hello")
        await caller.speaks("anything")


async def test_too_much(call):
    async with call(app) as caller:
        caller.model_answers("one", "two")
        assert await caller.run("hello") == "one"


async def test_end(call):
    async with call(app) as caller:
        await caller.waits(60)
        await caller.ended("limit_turns")
"""

TRANSCRIPT = """\
shop.voice, scripted for openai/webrtc, handler floor
  caller: 427
    call shop.look: succeeded
  agent: Order 427 is lost. I am sorry."""

FAILED_TRANSCRIPT = """\
shop.voice, scripted for openai/webrtc, handler floor
  caller: 0
    call shop.look: failed (shop.look raised ValueError: there is no order 0)
    handler failed: The handler of shop.voice raised ExecutionFailed: shop.look raised ValueError: there is no order 0"""


@dataclass(frozen=True)
class Ran:
    """The failure of one test of the project: its message and its full output; both are "" if it passed."""

    says: str
    shown: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ran]:
    """Run the project once, in a process whose environment names another control plane and real keys."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in (("agent.py", AGENT), ("pytest.ini", INI), ("test_desk.py", TESTS)):
        (folder / name).write_text(text)
    elsewhere = {
        "AGENTFIELD_URL": "http://127.0.0.1:1",
        "AGENTFIELD_API_KEY": "the-key-of-production",
        "OPENAI_API_KEY": "sk-production",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **elsewhere}, capture_output=True, text=True, timeout=110, check=False
    )
    assert (folder / "out.xml").exists(), done.stdout + done.stderr
    return {str(case.get("name")): _ran(case) for case in ET.parse(folder / "out.xml").getroot().iter("testcase")}


def _ran(case: ET.Element) -> Ran:
    shown = "".join(part.text or "" for kind in ("failure", "error") for part in case.iter(kind))
    lines = [line[1:].rstrip() for line in shown.splitlines() if line.startswith("E")]
    return Ran(dedent("\n".join(lines)), shown)


@pytest.mark.parametrize("name", ["test_found", "test_nothing_left_of_others"])
def test_tests_of_a_user_project_pass(ran: Mapping[str, Ran], name: str) -> None:
    """Tests pass, and get no state or task of other tests and no URL or key of the environment."""
    assert ran[name].shown == ""


def test_missing_speech(ran: Mapping[str, Ran]) -> None:
    """The failure shows the expected and the actual speech, the transcript and the test's line."""
    assert ran["test_words"].says == (
        f"AssertionError: expected the agent to say 'is found': agent: Order 427 is lost. I am sorry.\n\n{TRANSCRIPT}"
    )
    assert [line.split() for line in ran["test_words"].shown.splitlines() if line.startswith(">")][-1] == [
        ">",
        "await",
        'turn.speaks("is',
        'found")',
    ]
    assert "_hold" not in ran["test_words"].shown


def test_interrupted_speech_is_not_said(ran: Mapping[str, Ran]) -> None:
    """The failure shows that the expected speech was interrupted."""
    assert ran["test_manner"].says.startswith(
        "AssertionError: expected the agent to say 'Order 427': "
        "agent: Order 427 [cut off; unheard: is lost. I am sorry.]\n"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("test_input", "expected a call of shop.look with number='428': its number was '427'"),
        ("test_other", "expected a call of shop.find: called were shop.look"),
        ("test_never", "expected no call of shop.look: it was called"),
    ],
)
def test_missing_calls(ran: Mapping[str, Ran], name: str, says: str) -> None:
    """Wrong input, wrong target or an excluded call: each failure shows the actual calls."""
    assert ran[name].says == f"AssertionError: {says}\n\n{TRANSCRIPT}"


def test_a_failed_call(ran: Mapping[str, Ran]) -> None:
    """The error of the called reasoner is in the failure and in the transcript."""
    first, _, transcript = ran["test_failed"].says.partition("\n\n")
    assert first == (
        "AssertionError: expected a call of shop.look, succeeded: it has failed "
        "(shop.look raised ValueError: there is no order 0)"
    )
    assert FAILED_TRANSCRIPT.startswith(transcript)


def test_an_expired_deadline(ran: Mapping[str, Ran]) -> None:
    """The failure shows the deadline that expired."""
    assert ran["test_deadline"].says == (
        "AssertionError: expected the agent to say 'a greeting': nothing was said (waited 0.2 s)\n\n"
        "shop.voice, scripted for openai/webrtc, handler floor"
    )


def test_expectations_without_await(ran: Mapping[str, Ran]) -> None:
    """An expectation without `await` fails the test, and the failure shows its line."""
    line = TESTS.splitlines().index('        turn.speaks("is found")') + 1
    assert ran["test_unawaited"].says == (
        "AssertionError: These expectations were never awaited, so nothing was checked (write `await`):\n"
        f"  - the agent to say 'is found' (test_desk.py:{line})\n"
        f"  - a call of shop.look with number='1', succeeded (test_desk.py:{line + 1})"
    )


def test_a_plain_assert_shows_the_transcript(ran: Mapping[str, Ran]) -> None:
    """A failed plain `assert` shows its difference and the transcript."""
    assert "  + Order 427 is lost. I am sorry." in ran["test_plain"].says
    assert TRANSCRIPT in ran["test_plain"].says


def test_an_unexpected_error_of_the_handler(ran: Mapping[str, Ran]) -> None:
    """A handler exception that the test does not expect fails the test."""
    assert ran["test_unseen"].says == (
        "AssertionError: the handler raised, and the test did not expect it (turn.fails()): "
        "The handler of shop.voice raised ExecutionFailed: shop.look raised ValueError: there is no order 0\n\n"
        f"{FAILED_TRANSCRIPT}\n  ended: caller_hangup"
    )


def test_a_script_that_does_not_match(ran: Mapping[str, Ran]) -> None:
    """A script with too few or too many answers fails the test."""
    wrong = "AssertionError: The script and the session disagree:\n"
    assert ran["test_too_little"].says.startswith(
        f"{wrong}  - the model was asked for an answer after the caller said 'hello', and the script has none"
    )
    assert ran["test_too_much"].says == (
        f"{wrong}  - the model was not asked for what the script still has: 'two'\n\n"
        "shop.voice, scripted, model floor\n  caller: hello\n  agent: one\n  ended: caller_hangup"
    )


def test_an_unexpected_end(ran: Mapping[str, Ran]) -> None:
    """The actual end reason is in the failure and in the transcript."""
    assert ran["test_end"].says == (
        "AssertionError: expected the session to end with limit_turns: it ended with limit_idle\n\n"
        "shop.voice, scripted, model floor\n"
        "  ended: limit_idle (nobody spoke for 60 s)"
    )


def test_the_plugin_imports_nothing_until_it_is_used() -> None:
    """Loading the plugin imports neither control plane nor agent, and requires no extra."""
    program = (
        "import sys; sys.modules['pytest_asyncio'] = None; import agentfield_server.testing.pytest_plugin; "
        "print([m for m in sys.modules if m.split('.')[0] in ('agentfield', 'aiohttp', 'apsw', 'pydantic')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_documentation_passes(tmp_path: Path) -> None:
    """The programs in `docs/testing.md` are files with the names of their first lines; together they pass."""
    blocks = re.findall(
        r"^```(?:python|ini)\n# (\S+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    count = sum(text.count("async def test_") for _, text in blocks)
    assert count >= 8
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr


def test_the_failure_in_the_documentation_is_what_a_test_shows(tmp_path: Path) -> None:
    """The block after "A failure shows the conversation" equals the output of a failing test."""
    page = PAGE.read_text(encoding="utf-8")
    agent = re.search(r"^```python\n# agent.py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = re.search(r"^```\n(E .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert agent is not None
    assert shown is not None
    (tmp_path / "agent.py").write_text(agent[1])
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "test_it.py").write_text(
        'async def test_it(call):\n    async with call("agent.py", session="voice") as caller:\n'
        '        await (await caller.says("Where is order 427?")).speaks("is lost")\n'
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    said = [line[1:].rstrip() for line in done.stdout.splitlines() if line.startswith("E")]
    assert dedent("\n".join(said)) == dedent("\n".join(line[1:].rstrip() for line in shown[1].splitlines()))


def test_the_examples_pass(tmp_path: Path) -> None:
    """The tests in `examples/testing` and the test in the README pass."""
    readme = re.search(
        r"^## Test it\n\n```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert readme is not None
    (tmp_path / "test_readme.py").write_text(readme[1])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={ROOT}",
        "-c",
        "pyproject.toml",
    ]
    command += ["examples/testing", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert "5 passed" in done.stdout, done.stdout + done.stderr
