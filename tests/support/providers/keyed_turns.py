"""A scripted provider of recorded turns that needs a key and accepts several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agentfield.plugins import Manifest, hookimpl
from agentfield.realtime.provider import AdapterRuntime
from support.providers.scripted_turns import RecordedTurnsPlugin, Scripted, scripted_adapter

__all__ = ["KEYS", "SETTING", "KeyedTurnsPlugin", "keyed_adapter"]

SETTING = "KIOSK_API_KEY"
KEYS = ("sk-canary-of-the-first-key", "sk-canary-of-the-second-key")


class KeyedTurnsPlugin(RecordedTurnsPlugin):
    """The scripted provider with keys."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return the manifest."""
        plain = super().agentfield_manifest()
        return replace(
            plain,
            providers=tuple(replace(info, key_setting=SETTING, key_required=True) for info in plain.providers),
            pairs=tuple(replace(pair, factory="support.providers.keyed_turns:keyed_adapter") for pair in plain.pairs),
        )


@asynccontextmanager
async def keyed_adapter(runtime: AdapterRuntime) -> AsyncIterator[Scripted]:
    """Enter the adapter that the test made last and record its key."""
    async with scripted_adapter(runtime) as script:
        script.keys.append(runtime.key.get_secret_value() if runtime.key is not None else "")
        yield script
