"""Folders of the checkout that tests read from."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FIXTURES", "PHONE_FIXTURES", "RECORDING_FIXTURES", "ROOT", "SPEECH_FIXTURES"]

ROOT = Path(__file__).resolve().parents[2]
"""The root of the checkout."""

FIXTURES = ROOT / "tests" / "fixtures"
"""Inputs of tests."""

SPEECH_FIXTURES = ROOT / "tests" / "fixtures" / "speech"
"""Recordings of speech with their transcripts."""

PHONE_FIXTURES = ROOT / "tests" / "fixtures" / "phone"
"""A recorded telephone call."""

RECORDING_FIXTURES = ROOT / "tests" / "fixtures" / "recordings"
"""Recordings in formats that people's software writes."""
