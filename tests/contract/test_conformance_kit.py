"""The conformance kit: it finds faults, names them, and its standard tests cannot be overridden."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentfield.testing import AdapterSuite, TransportSuite
from agentfield.testing.conformance.harness.subject import suites_of
from agentfield.testing.conformance.suite import standard_tests
from support.packaging.third_party import ROOT, TONES, conformance, install, install_project

PLUGINS = ROOT / "tests" / "plugins"
PLUGIN, PEERS = "agentfield.plugins", "agentfield.peers"
TONES_PEER = "agentfield_tones.peer:peer"
pytestmark = pytest.mark.timeout(600)  # a whole suite each, several at once
AT_ONCE = 3
ODD_ONES = (
    "opens_and_closes or (refusal_is_reported and 401) or (say_is_spoken and not Leaky) or (Known and reply_is_spoken)"
    " or light or call_is_connected"
)
PROBE = """
import sys


def test_light():
    assert not {"aiohttp", "pydantic", "agentfield.plugins"} & set(sys.modules)
"""
ODD_TESTS = """
import pytest

from agentfield.testing import AdapterSuite, TransportSuite
from agentfield_tones.peer import peer


class TestLeaky(AdapterSuite):
    pair = "leaky/websocket"


class TestTelling(AdapterSuite):
    pair = "telling/websocket"


class TestWordy(AdapterSuite):
    pair = "wordy/websocket"


class TestSilent(AdapterSuite):
    pair = "silent/websocket"


class TestHeavy(AdapterSuite):
    pair = "heavy/websocket"


class TestOwnPeer(AdapterSuite):
    pair = "lonely/websocket"

    @pytest.fixture
    def peer_factory(self):
        return peer


class TestPipe(TransportSuite):
    pair = "*/pipe"


class TestKnown(AdapterSuite):
    pair = "wordy/websocket"
    xfails = {"test_a_say_is_spoken": "wordy issue 12", "test_a_reply_is_spoken": "it once failed"}
"""


Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Install the third-party plugins under test."""
    site = tmp_path_factory.mktemp("site")
    code = install_project(site, TONES)
    peers = {f"{name}.*": TONES_PEER for name in ("leaky", "telling", "wordy", "silent", "heavy")}
    odd = {PLUGIN: {"odd": "odd_tones.plugin", "heavy": "odd_tones.heavy"}, PEERS: peers}
    install(site, "odd-tones", odd)
    install(site, "watching", {PLUGIN: {"watching": "odd_tones.watching"}})
    pipe = {PLUGIN: {"pipe": "pipe_line.plugin"}, PEERS: dict.fromkeys(("pipe", "deaf"), "pipe_line.peer:caller")}
    install(site, "pipe-line", pipe)
    return [str(site), code, str(PLUGINS)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, path: list[str]) -> Iterator[Run]:
    """Start all runs of the kit; yield a function that returns a finished run by name."""
    folder, odd = tmp_path_factory.mktemp("author"), tmp_path_factory.mktemp("odd")
    # an author's project with asyncio_mode auto and one event loop for the session
    (odd / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n")
    (odd / "test_odd.py").write_text(ODD_TESTS)
    (folder / "test_probe.py").write_text(PROBE)
    kit = ("--pyargs", "agentfield.testing.conformance")
    only = [part for name in ("aiohttp", "asyncio", "anyio", "hypothesispytest") for part in ("-p", f"no:{name}")]
    faulty = {"AGENTFIELD_TESTING_PATIENCE": "10"}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {
            "odd": pool.submit(conformance, "test_odd.py", "-k", ODD_ONES, "-rA", cwd=odd, path=path, **faulty),
            "*/deaf": pool.submit(conformance, *kit, "--adapter", "*/deaf", cwd=folder, path=path, **faulty),
            "nothing": pool.submit(conformance, *kit, cwd=folder, path=path),
            "probe": pool.submit(conformance, "test_probe.py", *only, cwd=folder, path=[]),
            **{
                pair: pool.submit(conformance, *kit, "--adapter", pair, cwd=folder, path=path)
                for pair in ("tones/pipe", "*/pipe", "lonely/websocket")
            },
        }
        yield lambda name: runs[name].result()


# --- adapters


@pytest.fixture
def odd(run: Run) -> str:
    """Return the output of the suite for adapters with faults."""
    done = run("odd")
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("suite", "test", "says"),
    [
        ("TestLeaky", "test_a_session_opens_and_closes", "every task of the adapter ends: not within"),
        ("TestLeaky", "test_a_session_opens_and_closes", "heartbeat that nobody stops"),
        ("TestTelling", "test_a_refusal_is_reported[401]", "the provider's key is in a value that the session shows"),
        ("TestTelling", "test_a_refusal_is_reported[401]", "Telling refused the key THE-KEY."),
        (
            "TestWordy",
            "test_a_say_is_spoken",
            "say is exact, but the spoken text is 'Sure! Your order was found.'",
        ),
        ("TestSilent", "test_a_session_opens_and_closes", "the last event must be SessionClosed"),
        ("TestHeavy", "test_the_manifest_is_light", "odd_tones.heavy imports aiohappyeyeballs, aiohttp"),
    ],
)
def test_a_fault_fails_the_test_that_covers_it(odd: str, suite: str, test: str, says: str) -> None:
    """The standard test that covers a fault fails with a message that names it."""
    assert f"FAILED test_odd.py::{suite}::{test}" in odd
    assert says in odd


def test_other_tests_pass_despite_a_fault(odd: str) -> None:
    """Tests that a fault does not concern pass."""
    assert "PASSED test_odd.py::TestTelling::test_a_say_is_spoken" in odd
    assert "PASSED test_odd.py::TestLeaky::test_the_manifest_is_light" in odd


def test_a_test_file_can_override_the_peer(odd: str) -> None:
    """A fixture overrides the peer's entry point, and both suites can be subclassed."""
    assert "PASSED test_odd.py::TestOwnPeer::test_a_say_is_spoken" in odd
    assert "PASSED test_odd.py::TestPipe::test_a_call_is_connected" in odd


def test_known_bugs_are_strict(odd: str) -> None:
    """A known bug is expected to fail with its reason; one that passes is a failure."""
    assert "XFAIL test_odd.py::TestKnown::test_a_say_is_spoken - wordy issue 12" in odd
    assert "FAILED test_odd.py::TestKnown::test_a_reply_is_spoken - [XPASS(strict)] it once failed" in odd
    assert "PASSED test_odd.py::TestKnown::test_a_session_opens_and_closes" in odd


def test_a_standard_test_cannot_be_overridden() -> None:
    """A class that overrides a standard test, itself or through a base class, is refused with the test's name."""

    class Helpers:
        async def test_text_input(self) -> None:
            return

    with pytest.raises(TypeError, match="TestMine overrides the standard test test_a_say_is_spoken"):
        type("TestMine", (AdapterSuite,), {"test_a_say_is_spoken": None})
    with pytest.raises(TypeError, match="TestMine overrides the standard test test_text_input"):
        type("TestMine", (Helpers, AdapterSuite), {})
    with pytest.raises(TypeError, match="overrides the standard test test_a_call_is_connected"):
        type("TestMine", (TransportSuite,), {"test_a_call_is_connected": lambda self: None})


def test_known_bugs_have_a_test_and_a_reason() -> None:
    """A known bug needs a standard test and a reason; other tests can be added."""
    with pytest.raises(TypeError, match="test_of_mine, which is none of the standard tests"):
        type("TestMine", (AdapterSuite,), {"xfails": {"test_of_mine": "hm"}})
    with pytest.raises(TypeError, match="gives no reason for test_a_say_is_spoken"):
        type("TestMine", (AdapterSuite,), {"xfails": {"test_a_say_is_spoken": " "}})
    mine = type(
        "TestMine", (AdapterSuite,), {"test_of_mine": lambda self: None, "xfails": {"test_a_say_is_spoken": "4"}}
    )
    assert mine.test_a_reply_is_spoken is AdapterSuite.test_a_reply_is_spoken  # type: ignore[attr-defined]
    assert not any(mark.name == "xfail" for mark in getattr(AdapterSuite.test_a_say_is_spoken, "pytestmark", ()))


@pytest.mark.parametrize(("suite", "title"), [(AdapterSuite, "adapter"), (TransportSuite, "transport")])
def test_the_page_lists_every_test(suite: type, title: str) -> None:
    """The table of `docs/conformance.md` lists each standard test with its docstring."""
    page = (ROOT / "docs" / "conformance.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(f"| {title} | `test_")]
    wanted = [
        f"| {title} | `{name}` | {(test.__doc__ or '').splitlines()[0]} |"
        for name, test in standard_tests(suite).items()
    ]
    assert rows == wanted


# --- selection


def test_a_pair_without_a_peer_says_what_to_write(run: Run) -> None:
    """Without a peer the manifest tests pass, and the others show the lines to write."""
    done = run("lonely/websocket")
    assert "lonely/websocket has no peer to talk to." in done.stdout
    assert '[project.entry-points."agentfield.peers"]\n    "lonely.websocket" = "odd_tones.peer:peer"' in done.stdout
    assert "5 passed, 52 errors" in done.stdout.splitlines()[-1]


def test_failures_for_one_reason_are_shown_once(run: Run) -> None:
    """The reason of many failures is shown once; the others stay failures, and name the first one in a line."""
    done = run("lonely/websocket")
    # in CI pytest does not shorten the lines of its summary, which repeats the reason
    reports, _, _ = done.stdout.partition("short test summary info")
    assert reports.count('"lonely.websocket" = "odd_tones.peer:peer"') == 1
    because = (
        "because of the same as in test_the_adapter_starts_and_stops: Failed: lonely/websocket has no peer to talk to."
    )
    assert sum(line.startswith(because) for line in done.stdout.splitlines()) == 51


def test_a_run_without_a_pair_is_a_usage_error(run: Run) -> None:
    """The kit does not guess the pair."""
    done = run("nothing")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "add --adapter PROVIDER/TRANSPORT" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("tnes/websocket", "no installed plugin declares provider 'tnes'. Did you mean 'tones'?"),
        ("tones/webrtc", "tones/webrtc is not a declared pair. tones is available over:"),
        ("tones", "'tones' is no pair: write PROVIDER/TRANSPORT, such as acme/websocket"),
        ("*/websocket", "websocket is a transport of agentfield-core; name a provider: PROVIDER/websocket"),
        ("*/watching", "watching has hooks only, no pair and no transport, so the kit has nothing to test"),
        ("*/pip", "no installed plugin declares transport 'pip'. Did you mean 'pipe'?"),
    ],
)
def test_an_unknown_pair_is_a_usage_error(
    path: list[str], monkeypatch: pytest.MonkeyPatch, pair: str, says: str
) -> None:
    """No test runs, and the message is the registry's refusal."""
    for folder in path:
        monkeypatch.syspath_prepend(folder)
    with pytest.raises(pytest.UsageError) as refused:
        suites_of(pair)
    assert says in str(refused.value)


def test_the_pytest_plugin_imports_nothing_heavy(run: Run) -> None:
    """A run that does not use the kit imports no HTTP client, no models and no registry for it."""
    done = run("probe")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


# --- transports


def test_a_transport_passes_alone_and_with_a_provider(run: Run) -> None:
    """A transport is tested alone; of a pair derived from two plugins both ends are tested."""
    counts = []
    for pair in ("*/pipe", "tones/pipe"):
        done = run(pair)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        counts.append(int(done.stdout.splitlines()[-1].split()[0]))
    assert counts[1] > counts[0]


def test_faults_of_a_transport_are_found(run: Run) -> None:
    """Missing verification, lost caller audio and an ignored clear are found."""
    done = run("*/deaf")
    assert done.returncode == 1
    for says in (
        "an unverified caller got status",
        "all audio of the caller arrives: not within",
        "the caller is told to clear its playout: not within",
    ):
        assert says in done.stdout
