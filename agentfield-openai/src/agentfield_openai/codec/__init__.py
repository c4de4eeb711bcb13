"""The OpenAI Realtime protocol without I/O.

Commands go in and come out as client events (`encode`); server events go in and come out as neutral events (`decode`).
`Codec` in `codec` is the entry: it dispatches server events by name. Around it, in reading order: `state` (what both
directions remember), `command_encoder`, `caller_turns` and `replies` (the two sides of the event stream),
`response_outcome`, `truncation`, `session_object` (the `session` we want, and drift from it), `sideband_gaps` (recovery
after a lost sideband), `provider_side_tools` (refuses MCP items), `error_classification`, `audio_fast_path`, and
`dialect` (differences of other services).

Source: https://platform.openai.com/docs/guides/realtime
"""

from __future__ import annotations

from agentfield_openai.codec.codec import Codec

__all__ = ["Codec"]
