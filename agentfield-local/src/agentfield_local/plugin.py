"""Manifest of the `local` provider. It imports no heavy module: the speech engines load in the server process."""

from __future__ import annotations

from dataclasses import replace

from agentfield.plugins import Capabilities, Catalog, Manifest, PairSpec, ProviderSpec, hookimpl
from agentfield_openai.plugin import realtime_capabilities
from agentfield_openrouter.plugin import turns_capabilities

__all__ = ["agentfield_manifest"]

API = (2, 2)
"""Version of the plugin contract."""

_LOCAL = ProviderSpec(
    name="local",
    title="Local (offline speech)",
    key_setting="AGENTFIELD_LOCAL_KEY",
    key_required=False,
    url_setting="AGENTFIELD_LOCAL_URL",
    models=Catalog(known=("local-realtime-1",), closed=True, default="local-realtime-1"),
    voices=Catalog(known=("joe",), closed=True, default="joe"),
    concurrency=64,  # the limit of the server, for calls and for completions
)
_TRANSCRIPTION = "moonshine-tiny-en"
_STARTED = (
    "English, offline, no key. A server process is started on first use and ends by itself a minute "
    "after its last client; AGENTFIELD_LOCAL_URL (and AGENTFIELD_LOCAL_KEY) uses a running one."
)
_OPENAI = ("agentfield_openai",)
_OPENROUTER = ("agentfield_openai", "agentfield_openrouter")


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return the manifest."""
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
                notes=f"{_STARTED} There is one upstream, so nothing is routed.",
            ),
        ),
    )


def _free(capabilities: Capabilities) -> Capabilities:
    """Return the capabilities without the cost limit: local use has no price."""
    return replace(capabilities, limits=capabilities.limits - {"cost"})
