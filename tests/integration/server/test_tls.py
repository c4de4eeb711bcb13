"""HTTPS and mutual TLS: the client and a node over TLS, certificates that are missing or wrong, files that cannot be used."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import ControlPlaneUnavailable, InvalidInput
from agentfield.plugins import Registry
from agentfield.settings import client_tls
from agentfield.wire.unreachable import unreachable_hint
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings

DAY = dt.timedelta(days=1)


class Authority:
    """An authority that signs certificates, in files of a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.cert = folder / f"{name}.pem"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(subject, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Return the files of a new certificate of 127.0.0.1, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = (
            self._builder(subject, key).add_extension(addresses, critical=False).add_extension(issuer, critical=False)
        )
        cert, file = self.folder / f"{name}.cert.pem", self.folder / f"{name}.key.pem"
        cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return cert, file


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that clients trust."""
    made = Authority(tmp_path, "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.cert))
    return made


KEY = "a-key-of-16-or-more"


def plane(home: Path, **settings: Any) -> Any:
    return control_plane(Settings(home=home / "plane", port=0, **settings), registry=Registry.of([]), environ={})


async def test_the_client_and_nodes_speak_tls(tmp_path: Path, authority: Authority) -> None:
    """A call over HTTPS reaches a node that is linked over TLS; HTTP is not served."""
    cert, key = authority.certificate("plane")
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def double(n: int) -> int:
        return 2 * n

    async with plane(tmp_path, tls_cert=cert, tls_key=key) as running:
        assert running.url.startswith("https://127.0.0.1:")
        async with app.linked(url=running.url), ControlPlaneClient(running.url) as client:
            assert (await client.execute("shop.double", {"n": 21})).output == 42
        with pytest.raises(ControlPlaneUnavailable):
            async with ControlPlaneClient(running.url.replace("https", "http")) as client:
                await client.nodes()


async def test_an_unknown_authority_is_not_trusted(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not know the authority of the certificate refuses the control plane."""
    cert, key = authority.certificate("plane")
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "other").cert))
    async with plane(tmp_path, tls_cert=cert, tls_key=key) as running:
        with pytest.raises(ControlPlaneUnavailable):
            async with ControlPlaneClient(running.url) as client:
                await client.nodes()


async def test_a_certificate_of_another_name_is_named(tmp_path: Path, authority: Authority) -> None:
    """A client that was given an address that the certificate does not have is told to use another address."""
    cert, key = authority.certificate("plane")
    async with plane(tmp_path, tls_cert=cert, tls_key=key, host="0.0.0.0", api_key=KEY) as running:
        with pytest.raises(ControlPlaneUnavailable) as refused:
            async with ControlPlaneClient(running.url, KEY) as client:
                await client.nodes()
    assert str(refused.value.hint).startswith("set AGENTFIELD_URL to an address with a name of its certificate")
    assert ".)." not in refused.value.message


def test_a_connection_that_is_closed_at_once_may_lack_a_certificate() -> None:
    """A TLS connection that ends without an answer is reported with the settings of a client's certificate; a plain one is not."""
    closed = aiohttp.ServerDisconnectedError()
    assert "AGENTFIELD_TLS_CLIENT_CERT" in str(unreachable_hint("https://voice.example.com", closed))
    assert unreachable_hint("http://voice.example.com", closed) is None


async def test_mutual_tls_demands_a_certificate(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a certificate, and with one of another authority, no request is answered; with one of the authority it is."""
    cert, key = authority.certificate("plane")
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    async with plane(tmp_path, tls_cert=cert, tls_key=key, tls_client_ca=clients.cert) as running:

        async def asked(files: Iterable[Path]) -> list[Any]:
            for name, file in zip(("CERT", "KEY"), files, strict=False):
                monkeypatch.setenv(f"AGENTFIELD_TLS_CLIENT_{name}", str(file))
            async with ControlPlaneClient(running.url) as client:
                return list(await client.nodes())

        for files in ((), others.certificate("node")):
            with pytest.raises((ControlPlaneUnavailable, aiohttp.ClientError)):
                await asked(files)
        assert await asked(clients.certificate("node")) == []
        async with Agent("shop", registry=Registry.of([])).linked(url=running.url):
            assert len(running.hub.links()) == 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"tls_key": "plane.key.pem"}, "tls_key"),
        ({"tls_client_ca": "authority.pem"}, "tls_client_ca"),
        ({"tls_cert": "missing.pem"}, "tls_cert"),
        ({"tls_cert": "plane.cert.pem"}, "tls_cert"),
        ({"tls_cert": "plane.cert.pem", "tls_key": "other.key.pem"}, "tls_cert"),
        ({"tls_cert": "plane.cert.pem", "tls_key": "plane.key.pem", "tls_client_ca": "nonsense.pem"}, "tls_client_ca"),
    ],
)
async def test_files_that_cannot_be_used(
    tmp_path: Path, authority: Authority, given: dict[str, str], field: str
) -> None:
    """The start is refused with the setting and the reason, before anything is served."""
    authority.certificate("plane")
    authority.certificate("other")
    (tmp_path / "nonsense.pem").write_text("nonsense")
    with pytest.raises(InvalidInput) as caught:
        async with plane(tmp_path, **{name: tmp_path / file for name, file in given.items()}):
            pass
    assert (caught.value.code, caught.value.data["field"]) == ("bad_setting", field)


def test_a_certificate_of_a_client_that_cannot_be_used(tmp_path: Path) -> None:
    """It is refused before a connection is made; without one the default of the system is used."""
    assert client_tls({}) is True
    with pytest.raises(InvalidInput) as caught:
        client_tls({"AGENTFIELD_TLS_CLIENT_CERT": str(tmp_path / "missing.pem")})
    assert caught.value.code == "bad_setting"
    assert isinstance(caught.value.__context__, OSError | ssl.SSLError)
