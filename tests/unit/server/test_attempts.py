"""Wrong credentials are limited by address, valid ones are not; addresses come from sockets and trusted proxies only."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from agentfield.errors import LimitExceeded, Unauthorized
from agentfield_server.access.attempts import (
    STREAMS,
    STREAMS_OF_TOKEN,
    UPLOADED_BYTES,
    UPLOADS_OF_SESSION,
    WRONG_CREDENTIALS,
    Attempts,
    ClientAddresses,
    MemoryAdmission,
)
from agentfield_server.access.principals import Principal


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(remote: str, *forwarded: str) -> Any:
    """Return what is read of a request."""
    return SimpleNamespace(remote=remote, headers=CIMultiDict([("X-Forwarded-For", value) for value in forwarded]))


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", ("198.51.100.1",), "203.0.113.7"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1", "198.51.100.1, 10.0.0.2"), "198.51.100.1"),
        ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        ("10.0.0.1", ("198.51.100.1, nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1:4711",), "198.51.100.1"),
        ("10.0.0.1", ("[2001:db8:1:2:3::4]:4711",), "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ("::ffff:198.51.100.1",), "198.51.100.1"),
        ("2001:db8:1:2:3::4", ("198.51.100.1",), "2001:db8:1:2::/64"),
        ("", ("198.51.100.1",), ""),
    ],
)
def test_the_address_of_a_client(remote: str, forwarded: tuple[str, ...], address: str) -> None:
    """The last entry that no trusted proxy has: what stands before it may be invented."""
    assert ClientAddresses(("10.0.0.0/8",)).of(request(remote, *forwarded)) == address


def test_wrong_credentials_are_limited_by_address() -> None:
    """Beyond the limit an address is told to wait, another one is not, and the time that is said suffices."""
    clock = Clock()
    attempts, wrong = Attempts(MemoryAdmission(clock), ClientAddresses()), Unauthorized("wrong")
    for _ in range(WRONG_CREDENTIALS):
        assert attempts.refusal(request("203.0.113.7"), wrong) is wrong
    refused = attempts.refusal(request("203.0.113.7", "1.2.3.4"), wrong)
    assert isinstance(refused, LimitExceeded)
    assert refused.code == "too_many_attempts"
    assert attempts.refusal(request("203.0.113.8"), wrong) is wrong
    clock.now += refused.data["retry_after"]
    assert attempts.refusal(request("203.0.113.7"), wrong) is wrong


def test_counters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used one is forgotten."""
    monkeypatch.setattr("agentfield_server.access.attempts._REMEMBERED", 2)
    admission = MemoryAdmission(Clock())
    for name in ("a", "b", "a", "c"):
        admission.take(name, at_once=2, per_minute=1)
    assert admission.take("a", at_once=2, per_minute=1) == 60
    assert admission.take("b", at_once=1, per_minute=1) == 0


def test_what_is_held_is_limited_and_given_back() -> None:
    """Beyond the limit of a principal, of an address or of all nothing is held, and what failed halfway is given back."""
    attempts = Attempts(MemoryAdmission(Clock()), ClientAddresses())
    token, key = Principal("session:one", "token"), Principal("key:one", "key")
    with ExitStack() as stack:
        for _ in range(STREAMS_OF_TOKEN):
            stack.enter_context(attempts.stream(request("203.0.113.7"), token))
        with pytest.raises(LimitExceeded) as caught, attempts.stream(request("203.0.113.7"), token):
            pass
        assert caught.value.code == "too_many_at_once"
        stack.enter_context(attempts.stream(request("203.0.113.7"), Principal("session:two", "token")))
        for number in range(STREAMS - STREAMS_OF_TOKEN - 1):
            stack.enter_context(attempts.stream(request("203.0.113.7"), Principal(f"key:{number}", "key")))
        for _ in range(3):
            with pytest.raises(LimitExceeded), attempts.stream(request("203.0.113.7"), key):
                pass
        stack.enter_context(attempts.stream(request("203.0.113.8"), key))
    with attempts.stream(request("203.0.113.7"), token):
        pass


def test_uploads_are_limited_by_session_and_by_bytes() -> None:
    """A session sends few at once, and all together no more than fits into memory."""
    attempts = Attempts(MemoryAdmission(Clock()), ClientAddresses())
    with ExitStack() as stack:
        for _ in range(UPLOADS_OF_SESSION):
            stack.enter_context(attempts.upload("one", 1000))
        with pytest.raises(LimitExceeded), attempts.upload("one", 1000):
            pass
        with pytest.raises(LimitExceeded), attempts.upload("two", UPLOADED_BYTES):
            pass
        stack.enter_context(attempts.upload("two", UPLOADED_BYTES - 1000 * UPLOADS_OF_SESSION))
    with attempts.upload("two", UPLOADED_BYTES):
        pass
