"""The transcript of a call: what the agent's lines say about words that were cut off, reworded or missing."""

from __future__ import annotations

from typing import Any

import pytest

from agentfield_server.testing.call_record import CallRecord


@pytest.mark.parametrize(
    ("ended", "line"),
    [
        ({"generated": "It is stuck.", "verbatim": True}, "agent: It is stuck."),
        ({"generated": "It hangs.", "verbatim": False}, "agent: It hangs. [asked: It is stuck.]"),
        (
            {"generated": "It is", "verbatim": None, "interrupted": True, "heard_text": "It", "remaining": "is stuck."},
            "agent: It [cut off; unheard: is stuck.]",
        ),
    ],
)
def test_an_agent_line(ended: dict[str, Any], line: str) -> None:
    """A cut-off speech is shown as cut off, only other words are shown with those asked for."""
    assert transcript("It is stuck.", ended) == ["a call", f"  {line}"]


@pytest.mark.parametrize(
    ("ended", "line"),
    [({"tool_calls": 1}, "agent: (called a tool)"), ({}, "agent: (nothing was generated)")],
)
def test_an_agent_line_without_words(ended: dict[str, Any], line: str) -> None:
    """A reply that only called a tool is told apart from one that is missing."""
    assert transcript(None, {"generated": "", **ended}) == ["a call", f"  {line}"]


def transcript(asked: str | None, ended: dict[str, Any]) -> list[str]:
    """Return the lines of a call with one speech."""
    speech = {"speech_id": "spk_1", "asked": asked}
    events = [
        {"type": "speech.started", "seq": 1, "body": {**speech, "kind": "reply", "turn_id": None}},
        {"type": "speech.ended", "seq": 2, "body": {**speech, **ended}},
    ]
    return str(CallRecord("a call", events)).splitlines()
