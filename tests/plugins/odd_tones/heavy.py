"""A manifest that imports too much."""

import aiohttp  # noqa: F401

import agentfield_tones.plugin
from agentfield.plugins import Manifest, hookimpl


@hookimpl
def agentfield_manifest() -> Manifest:
    import dataclasses

    tones = agentfield_tones.plugin.agentfield_manifest()
    provider = dataclasses.replace(tones.providers[0], name="heavy")
    return dataclasses.replace(
        tones, providers=(provider,), pairs=(dataclasses.replace(tones.pairs[0], provider="heavy"),)
    )
