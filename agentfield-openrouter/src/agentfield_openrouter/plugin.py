"""The manifest: `openrouter` is a provider that is known, and no transport reaches it yet; a session that names it is refused."""

from __future__ import annotations

from agentfield.plugins import Manifest, Names, ProviderInfo, hookimpl

__all__ = ["agentfield_manifest"]

API = (1, 0)
"""The plugin contract that this was written for."""

_OPENROUTER = ProviderInfo(
    name="openrouter",
    title="OpenRouter",
    key_setting="OPENROUTER_API_KEY",
    url_setting="OPENROUTER_BASE_URL",
    default_url="https://openrouter.ai/api/v1",
    models=Names(known=("openai/gpt-audio", "openai/gpt-audio-mini"), default="openai/gpt-audio"),
    voices=Names(known=("alloy",), default="alloy"),
)


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return what this plugin brings: the provider, and no pair, since none is implemented."""
    return Manifest(api=API, providers=(_OPENROUTER,))
