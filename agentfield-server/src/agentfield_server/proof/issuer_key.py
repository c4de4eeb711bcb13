"""The issuer's key: what credentials and heads are signed with, and the DID document that publishes it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from agentfield.identity import NodeKey
from agentfield_server.settings import Settings

__all__ = ["did_document", "load_issuer_key", "load_replaced_key"]


def load_issuer_key(settings: Settings) -> NodeKey:
    """Return the key of this control plane: the file that is configured, else one in the home folder, made at the first start.

    Raises:
        Unavailable: The file cannot be read or written, or holds no Ed25519 key.
    """
    if settings.identity_key is not None:
        return NodeKey.load(settings.identity_key)
    return NodeKey.load_or_create(settings.home / "control_plane.pem")


def load_replaced_key(settings: Settings) -> NodeKey | None:
    """Return the key that the issuer's key replaces, None without a rotation.

    Raises:
        Unavailable: The file cannot be read, or holds no Ed25519 key.
    """
    return None if settings.identity_key_before is None else NodeKey.load(settings.identity_key_before)


def did_document(did: str, base_url: str) -> dict[str, Any]:
    """Return the ``did:web`` document of a control plane, an alias of its ``did:key`` (DID Core 1.0, did:web method).

    Args:
        did: The ``did:key`` of the issuer.
        base_url: Public address of the control plane.
    """
    alias = "did:web:" + urlsplit(base_url).netloc.replace(":", "%3A")
    multikey = did.removeprefix("did:key:")
    method = f"{alias}#{multikey}"
    return {
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "id": alias,
        "alsoKnownAs": [did],
        "verificationMethod": [
            {"id": method, "type": "Multikey", "controller": alias, "publicKeyMultibase": multikey},
        ],
        "assertionMethod": [method],
    }
