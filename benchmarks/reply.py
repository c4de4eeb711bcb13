"""Response time of a call: from the end of the caller's speech to the first audio of the answer, over the whole local stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, percentile

CLIPS = Path(__file__).parents[1] / "tests" / "fixtures" / "speech" / "synthetic"
SILENCE = 0.5
"""Seconds of silence that end a turn; no answer can start earlier."""


def measure() -> list[Row]:
    """Make demo calls of several turns and measure the recordings of the caller."""
    waits: list[float] = []
    for clips in (("01", "02", "03", "04", "05"), ("06", "07", "08", "09", "10")):
        report = _demo(*clips)
        waits += [row["end_of_speech_to_first_audio_ms"] / 1000 for row in report["timings"]]
    return [
        Row(
            name=f"end of the caller's speech to first reply audio, p50 of {len(waits)} turns",
            value=percentile(waits, 50),
            unit="s",
            floor=SILENCE,
            goal=1.1,
        ),
        Row(name="the same, slowest turn", value=max(waits), unit="s", floor=SILENCE),
    ]


def _demo(*clips: str) -> dict[str, Any]:
    recordings = [arg for clip in clips for arg in ("--audio", str(CLIPS / f"{clip}.wav"))]
    program = Path(sys.executable).with_name("af")
    done = subprocess.run(
        [program, "demo", "--once", "--json", *recordings], capture_output=True, text=True, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report
