"""Writes `call.jsonl`: what Twilio sends of a call in which somebody speaks two sentences, as its media streams document it.

python tests/phone_fixtures/record.py
"""

from __future__ import annotations

import base64
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentfield.realtime.audio import AudioFormat
from agentfield_server.media.convert import converter

HERE = Path(__file__).parent
PCMU = AudioFormat("pcmu", 8000)
STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
CALL = "CA7b1c5fd1bb6f4ba2ac0fc2ac5a5e2e31"
ACCOUNT = "AC5f4dcc3b5aa765d61d8327deb882cf99"
QUIET = b"\xff" * PCMU.size(200)


def speech(name: str) -> bytes:
    """Return a recording as a telephone carries it, whole frames of 20 ms."""
    with wave.open(str(HERE.parent / "speech_fixtures" / name)) as source:
        convert = converter(AudioFormat("pcm16", source.getframerate()), PCMU)
        data = convert(source.readframes(source.getnframes())) + convert.flush()
    return data.ljust(-(-len(data) // 160) * 160, b"\xff")


def messages() -> Iterator[dict[str, Any]]:
    """Yield the messages of the call."""
    yield {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    start = {
        "accountSid": ACCOUNT,
        "streamSid": STREAM,
        "callSid": CALL,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    }
    yield {"event": "start", "sequenceNumber": "1", "start": start, "streamSid": STREAM}
    sound = QUIET + speech("synthetic/08.wav") + QUIET + speech("goforward.wav") + QUIET
    number = 1
    for at in range(0, len(sound), 160):
        number += 1
        media = {
            "track": "inbound",
            "chunk": str(number - 1),
            "timestamp": str(at // 8),
            "payload": base64.b64encode(sound[at : at + 160]).decode(),
        }
        yield {"event": "media", "sequenceNumber": str(number), "media": media, "streamSid": STREAM}
    dtmf = {"track": "inbound_track", "digit": "5"}
    yield {"event": "dtmf", "streamSid": STREAM, "sequenceNumber": str(number + 1), "dtmf": dtmf}
    stop = {"accountSid": ACCOUNT, "callSid": CALL}
    yield {"event": "stop", "sequenceNumber": str(number + 2), "stop": stop, "streamSid": STREAM}


if __name__ == "__main__":
    lines = (json.dumps(message, separators=(",", ":")) for message in messages())
    (HERE / "call.jsonl").write_text("".join(f"{line}\n" for line in lines))
