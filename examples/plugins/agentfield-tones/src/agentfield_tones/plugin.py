"""The manifest: the provider `tones` and the capabilities of its pair. It must stay light: it imports nothing of this package."""

from __future__ import annotations

from agentfield.plugins import Capabilities, Catalog, Manifest, PairSpec, ProviderSpec, hookimpl

__all__ = ["agentfield_manifest"]


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return the provider and its pair."""
    return Manifest(
        api=(2, 2),
        providers=(
            ProviderSpec(
                name="tones",
                title="Tone service",
                key_setting="TONES_KEY",
                url_setting="TONES_URL",
                default_url="http://127.0.0.1:8473",
                models=Catalog(known=("abacus-1",), closed=True, default="abacus-1"),
            ),
        ),
        pairs=(
            PairSpec(
                provider="tones",
                transport="websocket",
                factory="agentfield_tones.adapter:tones",
                media="bridged",
                options="agentfield_tones.options:TonesOptions",
                capabilities=Capabilities(
                    say="exact",
                    uninterruptible=True,
                    floors=frozenset({"handler"}),
                    turn_detection=frozenset({"server_vad"}),
                    modalities=frozenset({"audio"}),
                    tools="none",
                    caller_transcript="final",
                    agent_transcript="final",
                    transcription="own",
                    interruption="client",
                    truncation="estimate",
                    text_input=True,
                    resumption="stateless",
                    usage="none",
                    max_duration=600.0,
                    limits=frozenset({"duration", "idle", "turns"}),
                    formats=frozenset({"pcm16/8000"}),
                    echoes=frozenset({"model"}),
                    dtmf=True,
                ),
                notes="Keys are detected in the audio, so they work on every transport that carries audio.",
            ),
        ),
    )
