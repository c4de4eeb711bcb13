"""A plugin with hooks only."""

from __future__ import annotations

from agentfield.plugins import Manifest, RecordedEvent, hookimpl

__all__ = ["agentfield_manifest", "agentfield_session_ended"]


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return a manifest that declares a setting and nothing else."""
    return Manifest(api=(2, 2), settings=("WATCHING_FOLDER",))


@hookimpl
async def agentfield_session_ended(event: RecordedEvent) -> None:
    """Do nothing."""
