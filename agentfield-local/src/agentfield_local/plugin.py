"""The manifest: what `local` is and what a call to it can do. Light on purpose; the speech engines load in a process of their own."""

from __future__ import annotations

from agentfield.plugins import Manifest, Names, PairSpec, ProviderInfo, hookimpl
from agentfield_openai.plugin import realtime_capabilities

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
)


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
                capabilities=realtime_capabilities("moonshine-tiny-en"),
                options="agentfield_openai.options:OpenAIOptions",
                requires=("agentfield_openai",),
                notes=(
                    "English, offline, no key. A server process is started on first use and ends by itself a minute "
                    "after its last client; AGENTFIELD_LOCAL_URL (and AGENTFIELD_LOCAL_KEY) uses one that runs already."
                ),
            ),
        ),
    )
