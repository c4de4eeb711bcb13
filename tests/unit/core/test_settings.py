"""Settings of nodes and clients."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agentfield.errors import InvalidInput
from agentfield.identity import NodeKey
from agentfield.settings import discover_api_key, discover_url, home, is_loopback, private_folder


def test_the_first_source_decides(tmp_path: Path) -> None:
    """The address comes from flag, environment, the file of a running control plane, or the default, in that order."""
    env = {"AGENTFIELD_HOME": str(tmp_path), "AGENTFIELD_URL": "http://env:1/"}
    assert discover_url("https://flag:2/x/", env) == "https://flag:2/x"
    assert discover_url(None, env) == "http://env:1"
    del env["AGENTFIELD_URL"]
    assert discover_url(None, env) == "http://127.0.0.1:8080"
    (tmp_path / "current.json").write_text('{"url": "http://127.0.0.1:9", "pid": 1}')
    assert discover_url(None, env) == "http://127.0.0.1:9"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"url": "nowhere"}'])
def test_an_invalid_address_file_is_named(tmp_path: Path, content: str) -> None:
    """A file that does not name a control plane is an error, never a silent default."""
    (tmp_path / "current.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"current\.json"):
        discover_url(None, {"AGENTFIELD_HOME": str(tmp_path)})


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "http://[::1", "http://a]b"])
def test_an_invalid_address_is_refused(url: str) -> None:
    """Only http and https addresses are accepted."""
    with pytest.raises(InvalidInput, match="AGENTFIELD_URL"):
        discover_url(None, {"AGENTFIELD_URL": url})


@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_an_invalid_port_is_named(port: str) -> None:
    """The error of a port that does not exist is about the port."""
    with pytest.raises(InvalidInput, match="its port is not a number from 0 to 65535"):
        discover_url(f"http://127.0.0.1:{port}", {})


def test_the_data_folder_and_the_key() -> None:
    """AGENTFIELD_HOME and AGENTFIELD_API_KEY are read; an empty key counts as no key."""
    assert home({"AGENTFIELD_HOME": "/x"}) == Path("/x")
    assert home({}).name == ".agentfield"
    assert discover_api_key(None, {"AGENTFIELD_API_KEY": "k"}) == "k"
    assert discover_api_key(None, {"AGENTFIELD_API_KEY": ""}) is None
    assert discover_api_key("a key of words", {}) == "a key of words"
    for wrong in ("sk_crlf\r", "sk_\x1b", " sk_space", "schlüssel"):
        with pytest.raises(InvalidInput, match="no request can carry") as refused:
            discover_api_key(None, {"AGENTFIELD_API_KEY": wrong})
        assert wrong.strip() not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://10.0.0.1", False),
        ("http://example.org", False),
    ],
)
def test_loopback_addresses_are_recognised(url: str, own: bool) -> None:
    """Loopback addresses are recognised, because they ignore proxies."""
    assert is_loopback(url) is own


def test_created_folders_are_private(tmp_path: Path) -> None:
    """The data folder is for its user only, whichever folder inside it is made first, and whatever the umask is."""
    before = os.umask(0)
    try:
        made = private_folder(tmp_path / "home" / "adapters" / "local")
        NodeKey.load_or_create(tmp_path / "other" / "nodes" / "a.pem")
    finally:
        os.umask(before)
    folders = (made, *list(made.parents)[:2], tmp_path / "other" / "nodes", tmp_path / "other")
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert private_folder(made) == made
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        private_folder(tmp_path / "file")
