"""Tests against real providers cost money: they are collected only if the environment enables them."""

from __future__ import annotations

import os

_ENABLED_BY = {
    "test_openai_live.py": ("AGENTFIELD_LIVE_OPENAI", "OPENAI_API_KEY"),
    "test_openrouter_live.py": ("AGENTFIELD_LIVE_OPENROUTER", "OPENROUTER_API_KEY"),
}


def _enabled(switch: str, key: str) -> bool:
    return os.environ.get(switch) == "1" and bool(os.environ.get(key))


collect_ignore = [name for name, settings in _ENABLED_BY.items() if not _enabled(*settings)]
