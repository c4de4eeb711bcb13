"""The bridge between a provider's session and a caller whose audio the control plane carries.

Commands and the caller's input go in; neutral events and the audio of the caller's leg come out. One bridge exists for each
call; it knows no codec and takes no decisions about the conversation. Read `bridge`, then `uplink` (the caller's audio on its
way to the provider) and `reply_player` (replies on their way to the caller, with the arithmetic in `playback_position`).
"""

from __future__ import annotations

from agentfield.realtime.bridge.bridge import Bridge
from agentfield.realtime.bridge.leg_attachment import Converter
from agentfield.realtime.bridge.stall_monitor import EventLoopStallMonitor

__all__ = ["Bridge", "Converter", "EventLoopStallMonitor"]
