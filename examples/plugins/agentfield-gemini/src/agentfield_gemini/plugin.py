"""The manifest: the provider `gemini` and the capabilities of its pair. It must stay light: it imports nothing of this package."""

from __future__ import annotations

from agentfield.plugins import Capabilities, Catalog, Manifest, PairSpec, ProviderSpec, hookimpl

__all__ = ["agentfield_manifest"]

_VOICES = (
    "Achernar",
    "Achird",
    "Algenib",
    "Algieba",
    "Alnilam",
    "Aoede",
    "Autonoe",
    "Callirrhoe",
    "Charon",
    "Despina",
    "Enceladus",
    "Erinome",
    "Fenrir",
    "Gacrux",
    "Iapetus",
    "Kore",
    "Laomedeia",
    "Leda",
    "Orus",
    "Puck",
    "Pulcherrima",
    "Rasalgethi",
    "Sadachbia",
    "Sadaltager",
    "Schedar",
    "Sulafat",
    "Umbriel",
    "Vindemiatrix",
    "Zephyr",
    "Zubenelgenubi",
)


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return the provider and its pair."""
    return Manifest(
        api=(2, 2),
        providers=(
            ProviderSpec(
                name="gemini",
                title="Gemini Live",
                key_setting="GEMINI_API_KEY",
                url_setting="GEMINI_BASE_URL",
                default_url="https://generativelanguage.googleapis.com",
                models=Catalog(
                    known=(
                        "gemini-3.8-live",
                        "gemini-3.1-flash-live-preview",
                        "gemini-2.5-flash-native-audio-preview-12-2025",
                    ),
                    default="gemini-3.8-live",
                ),
                voices=Catalog(known=_VOICES),
            ),
        ),
        pairs=(
            PairSpec(
                provider="gemini",
                transport="websocket",
                factory="agentfield_gemini.adapter:websocket",
                media="bridged",
                options="agentfield_gemini.options:GeminiOptions",
                capabilities=Capabilities(
                    say="best_effort",
                    floors=frozenset({"model"}),
                    turn_detection=frozenset({"server_vad", "manual"}),
                    modalities=frozenset({"audio"}),
                    tools="sync",
                    caller_transcript="partial",
                    agent_transcript="streaming",
                    transcription="own",
                    interruption="server",
                    delays_interruption=True,
                    truncation="none",
                    answers_after=frozenset({"turn", "commit", "tool_result"}),
                    begins_turns=True,
                    text_input=True,
                    resumption="handle",
                    usage="tokens",
                    max_duration=None,  # a connection ends after minutes; the conversation is resumed on another
                    limits=frozenset({"duration", "idle", "turns", "tool_calls"}),
                    formats=frozenset({"pcm16/16000"}),
                    output_formats=frozenset({"pcm16/24000"}),
                    echoes=frozenset(),
                ),
                notes="The model answers each turn by itself; what it has sent stays in its memory, also what nobody heard.",
            ),
        ),
    )
