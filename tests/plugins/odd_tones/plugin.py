"""The manifest: one provider per fault; `heavy` is a second manifest, which imports too much."""

from __future__ import annotations

import dataclasses

import agentfield_tones.plugin
from agentfield.plugins import Manifest, hookimpl

FAULTS = ("leaky", "telling", "wordy", "silent", "lonely")


@hookimpl
def agentfield_manifest() -> Manifest:
    tones = agentfield_tones.plugin.agentfield_manifest()
    (provider,), (pair,) = tones.providers, tones.pairs
    return Manifest(
        api=(2, 0),
        providers=tuple(dataclasses.replace(provider, name=name, title=name.title()) for name in FAULTS),
        pairs=tuple(dataclasses.replace(pair, provider=name, factory=f"odd_tones.adapters:{name}") for name in FAULTS),
    )
