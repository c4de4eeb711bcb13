"""The demo's program is the example's, and what it packs is there."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path

from agentfield_cli.audio import RATE, read_recording
from agentfield_cli.calling import CallReport
from agentfield_cli.demo.runner import problems

ROOT = Path(__file__).parents[2]
DEMO = Path(str(resources.files("agentfield_cli") / "demo"))


def program(path: Path) -> tuple[str, dict[str, str]]:
    """Return a program without what may differ, and what differs."""
    tree = ast.parse(path.read_text())
    own = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("provider", "transport", "model", "voice"):
            own[node.arg] = ast.literal_eval(node.value)
            node.value = ast.Constant("...")
    return ast.dump(tree), own


def test_the_demo_is_the_example_with_another_provider():
    """The demo's agent equals examples/voice_support but for the provider and the names of its model and voice."""
    example, there = program(ROOT / "examples" / "voice_support" / "agent.py")
    demo, here = program(DEMO / "agent.py")
    assert demo == example
    assert there == {"provider": "openai", "transport": "webrtc", "model": "gpt-realtime-2", "voice": "marin"}
    assert here == {"provider": "local", "transport": "webrtc", "model": "local-realtime-1", "voice": "joe"}


def test_the_callers_recording_is_packed_with_its_licence_note():
    """The packaged recording can be read and says where it comes from."""
    samples = read_recording(DEMO / "caller.wav")
    assert 3 < samples.size / RATE < 4
    assert "flite" in (DEMO / "NOTICE.md").read_text()


def good_report() -> CallReport:
    report = CallReport("ses_1", "local", "webrtc", end_reason="caller_hangup")
    report.turns = [{"caller": "where", "asked": "here", "generated": "here", "heard_ms": 1}]
    report.executions = [{"target": "voice-support.resolve_turn", "status": "succeeded"}]
    return report


def test_a_good_call_has_no_problems():
    """A call that was understood, answered and heard is a success."""
    assert problems(good_report(), "here") == []


def test_everything_that_did_not_happen_is_named():
    """A call of which nothing came fails with every reason."""
    report = CallReport("ses_1", "local", "webrtc", end_reason="limit_idle")
    report.executions = [{"target": "voice-support.voice", "status": "failed"}]
    assert problems(report, " ") == [
        "the caller was not understood: no turn was taken",
        "voice-support.resolve_turn did not succeed",
        "an execution failed",
        "the agent said nothing",
        "the caller heard no words",
        "the session ended with limit_idle instead of caller_hangup",
    ]
