"""The manifest: what `local` is and what a call to it can do. Light on purpose; the speech engines load in a process of their own."""

from __future__ import annotations

from dataclasses import replace

from agentfield.plugins import Capabilities, Manifest, Names, PairSpec, ProviderInfo, hookimpl
from agentfield_openai.plugin import realtime_capabilities
from agentfield_openrouter.plugin import turns_capabilities

__all__ = ["agentfield_manifest"]

API = (1, 0)
"""The plugin contract that this was written for."""

_LOCAL = ProviderInfo(
    name="local",
    title="Local (offline speech)",
    key_setting="AGENTFIELD_LOCAL_KEY",
    key_required=False,
    url_setting="AGENTFIELD_LOCAL_URL",
    models=Names(known=("local-realtime-1",), closed=True, default="local-realtime-1"),
    voices=Names(known=("joe",), closed=True, default="joe"),
    concurrency=64,  # as many answers and calls as the server makes at once
)
_TRANSCRIPTION = "moonshine-tiny-en"
_STARTED = (
    "English, offline, no key. A server process is started on first use and ends by itself a minute "
    "after its last client; AGENTFIELD_LOCAL_URL (and AGENTFIELD_LOCAL_KEY) uses one that runs already."
)
_OPENAI = ("agentfield_openai",)
_OPENROUTER = ("agentfield_openai", "agentfield_openrouter")


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return what this plugin brings."""
    return Manifest(
        api=API,
        providers=(_LOCAL,),
        pairs=(
            PairSpec(
                provider="local",
                transport="webrtc",
                factory="agentfield_local.adapters:webrtc",
                media="direct",
                capabilities=_free(realtime_capabilities(_TRANSCRIPTION)),
                options="agentfield_openai.options:OpenAIOptions",
                requires=_OPENAI,
                notes=_STARTED,
            ),
            PairSpec(
                provider="local",
                transport="websocket",
                factory="agentfield_local.adapters:websocket",
                media="bridged",
                capabilities=_free(realtime_capabilities(_TRANSCRIPTION, bridged=True)),
                options="agentfield_openai.options:WebSocketOptions",
                requires=_OPENAI,
                notes=f"{_STARTED} say='exact' is spoken by the same voice and needs pcm16/24000.",
            ),
            PairSpec(
                provider="local",
                transport="audio_turns",
                factory="agentfield_local.adapters:audio_turns",
                media="turns",
                capabilities=_free(turns_capabilities(_TRANSCRIPTION, pinned=False)),
                options="agentfield_openrouter.options:TurnsOptions",
                requires=_OPENROUTER,
                notes=f"{_STARTED} There is one upstream, and nothing that routes.",
            ),
        ),
    )


def _free(capabilities: Capabilities) -> Capabilities:
    """Return what a server without prices can do: what costs nothing cannot be limited by its cost."""
    return replace(capabilities, limits=capabilities.limits - {"cost"})
