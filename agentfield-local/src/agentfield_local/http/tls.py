"""TLS options of the second port, for clients that accept no other, such as Node clients that always open `wss:`."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from agentfield.errors import InvalidInput

__all__ = ["TlsOptions"]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """A certificate, its key and the port that uses them.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the private key, not encrypted.
        port: Port to listen on; 0 takes a free one.
    """

    certificate: Path
    key: Path
    port: int = 0

    def context(self) -> ssl.SSLContext:
        """Return the SSL context of the port.

        Raises:
            InvalidInput: A file cannot be read, or is not a usable certificate or key.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise InvalidInput(
                f"the TLS certificate {self.certificate} with its key {self.key} cannot be used: {error}",
                hint="give two PEM files, the key without a password",
                field="tls_cert",
            ) from None
        return context


def _no_password() -> str:
    """Reject an encrypted key: without a callback, the ssl library asks for the password on the terminal."""
    raise ValueError("the key is encrypted")
