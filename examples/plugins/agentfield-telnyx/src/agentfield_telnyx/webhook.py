"""Telnyx's webhooks: their signature, and the events of a call.

https://developers.telnyx.com/docs/development/api-fundamentals/webhooks/receiving-webhooks
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agentfield.adapterkit.json_fields import id_at, object_at, parse_object, text_at

__all__ = ["CLIENT_STATE", "TOLERANCE", "CallEvent", "is_signed", "read_event"]

TOLERANCE = 300.0
"""Seconds by which the time of a webhook may differ from ours; Telnyx's own libraries use the same."""
CLIENT_STATE = base64.b64encode(b"agentfield").decode()
"""Set when a call is answered and returned with each later event: the calls of this transport, among others of the application."""
_KEY_SIZE, _SIGNATURE_SIZE = 32, 64


def is_signed(public_key: str, signature: str, timestamp: str, body: bytes, now: float) -> bool:
    """Return whether Telnyx signed a webhook, less than `TOLERANCE` seconds ago.

    Args:
        public_key: The account's public key, base64.
        signature: The header `telnyx-signature-ed25519`, base64.
        timestamp: The header `telnyx-timestamp`, seconds since the epoch.
        body: The body as it was received.
        now: Seconds since the epoch.

    Raises:
        ValueError: The public key is not an Ed25519 key in base64.
    """
    key = _bytes(public_key, _KEY_SIZE)
    if key is None:
        raise ValueError("a public key is 32 bytes in base64")
    signed = _bytes(signature, _SIGNATURE_SIZE)
    # an exact form, since int() also takes signs, spaces and the digits of other scripts
    if signed is None or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now - int(timestamp)) > TOLERANCE:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed, timestamp.encode() + b"|" + body)
    except InvalidSignature:
        return False
    return True


@dataclass(frozen=True, slots=True)
class CallEvent:
    """An event of a call."""

    kind: str
    """Its type, such as ``call.initiated``."""
    call: str
    """The call control id, which commands to the call need."""
    incoming: bool
    ours: bool
    """Whether this transport answered the call."""
    reason: str
    """Why a stream failed, "" for other events."""


def read_event(body: bytes) -> CallEvent | None:
    """Return the event of a webhook, None if it is not one of a call."""
    data = object_at(parse_object(body) or {}, "data")
    payload = object_at(data, "payload")
    kind, call = id_at(data, "event_type"), id_at(payload, "call_control_id")
    if kind is None or call is None:
        return None
    return CallEvent(
        kind=kind,
        call=call,
        incoming=payload.get("direction") == "incoming",
        ours=payload.get("client_state") == CLIENT_STATE,
        reason=text_at(payload, "failure_reason") or "",
    )


def _bytes(text: str, size: int) -> bytes | None:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if len(data) == size else None
