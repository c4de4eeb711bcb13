"""The demo's agent equals the example, and its packaged files are complete."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path

from agentfield_cli.call.make_call import CallReport
from agentfield_cli.call.recordings import RATE, read_recording
from agentfield_cli.demo.runner import call_problems
from support.paths import ROOT

DEMO = Path(str(resources.files("agentfield_cli") / "demo"))


def program(path: Path) -> tuple[str, dict[str, str]]:
    """Return the program without the values that may differ, and those values."""
    tree = ast.parse(path.read_text())
    own = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("provider", "transport", "model", "voice"):
            own[node.arg] = ast.literal_eval(node.value)
            node.value = ast.Constant("...")
    return ast.dump(tree), own


def test_the_demo_is_the_example_with_another_provider():
    """The demo's agent equals examples/voice_support except for provider, transport, model and voice."""
    example, there = program(ROOT / "examples" / "voice_support" / "agent.py")
    demo, here = program(DEMO / "agent.py")
    assert demo == example
    assert there == {"provider": "openai", "transport": "webrtc", "model": "gpt-realtime-2", "voice": "marin"}
    assert here == {"provider": "local", "transport": "webrtc", "model": "local-realtime-1", "voice": "joe"}


def test_the_callers_recording_is_packed_with_its_licence_note():
    """The packaged recording can be read, and its notice names its origin."""
    samples = read_recording(DEMO / "caller.wav")
    assert 3 < samples.size / RATE < 4
    assert "flite" in (DEMO / "NOTICE.md").read_text()


def good_report() -> CallReport:
    report = CallReport("ses_1", "local", "webrtc", end_reason="caller_hangup")
    report.turns = [{"caller": "where", "asked": "here", "generated": "here", "heard_ms": 1}]
    report.executions = [{"target": "voice-support.resolve_turn", "status": "succeeded"}]
    return report


def test_a_good_call_has_no_problems():
    """A call that was understood, answered and heard has no problems."""
    assert call_problems(good_report(), "here") == []


def test_a_failed_call_names_every_problem():
    """A failed call lists every problem."""
    report = CallReport("ses_1", "local", "webrtc", end_reason="limit_idle")
    report.executions = [{"target": "voice-support.voice", "status": "failed"}]
    assert call_problems(report, " ") == [
        "the caller was not understood: no turn was taken",
        "voice-support.resolve_turn did not succeed",
        "an execution failed",
        "the agent said nothing",
        "the caller heard no words",
        "the session ended with limit_idle instead of caller_hangup",
    ]
