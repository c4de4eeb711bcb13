"""Tests against real providers cost money: nothing here is collected unless the environment asks for it."""

from __future__ import annotations

import os

_WANTED = {
    "test_openai_live.py": ("AGENTFIELD_LIVE_OPENAI", "OPENAI_API_KEY"),
    "test_openrouter_live.py": ("AGENTFIELD_LIVE_OPENROUTER", "OPENROUTER_API_KEY"),
}


def _wanted(switch: str, key: str) -> bool:
    return os.environ.get(switch) == "1" and bool(os.environ.get(key))


collect_ignore = [name for name, settings in _WANTED.items() if not _wanted(*settings)]
