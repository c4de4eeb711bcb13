"""A provider that needs a key and takes several, in an installation in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agentfield.plugins import Manifest, hookimpl
from agentfield.realtime.provider import AdapterRuntime
from unit.turns_kit import Kiosk, Scripted, scripted_adapter

__all__ = ["KEYS", "SETTING", "KeyedKiosk", "keyed_adapter"]

SETTING = "KIOSK_API_KEY"
KEYS = ("sk-canary-of-the-first-key", "sk-canary-of-the-second-key")


class KeyedKiosk(Kiosk):
    """The scripted provider, with keys."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return what the plugin brings."""
        plain = super().agentfield_manifest()
        return replace(
            plain,
            providers=tuple(replace(info, key_setting=SETTING, key_required=True) for info in plain.providers),
            pairs=tuple(replace(pair, factory="keys_kit:keyed_adapter") for pair in plain.pairs),
        )


@asynccontextmanager
async def keyed_adapter(runtime: AdapterRuntime) -> AsyncIterator[Scripted]:
    """Enter the adapter that the test made last, and tell it which key it got."""
    async with scripted_adapter(runtime) as script:
        script.keys.append(runtime.key.get_secret_value() if runtime.key is not None else "")
        yield script
