"""Browser tokens and one-time codes: first use, lifetime, rights, the page that uses them, and what they use up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield.errors import AgentFieldError
from agentfield_server.access.browser_tokens import FIRST_USE, READ_AFTER_END, BrowserTokenService, TokenUse
from agentfield_server.store.records import NewExecution, NewSession
from agentfield_server.store.sqlite.store import SqliteStore

OWN = "http://127.0.0.1:8080"


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "s.db", on_commit=lambda _rows: None, clock=clock)
    await store.open()
    await make_session(store, "one")
    await make_session(store, "two")
    yield store
    await store.close()


@pytest.fixture
def tokens(store: SqliteStore, clock: Clock) -> BrowserTokenService:
    return BrowserTokenService(store, clock=clock, code_ttl=600)


async def make_session(store: SqliteStore, name: str) -> None:
    session = NewSession(
        id=name,
        run_id=f"run_{name}",
        target="a.b",
        node_id="a",
        caller=None,
        metadata={},
        config={"declaration": {"limits": {"duration": 1800.0}}},
        declaration_hash="h",
        principal="local",
    )
    root = NewExecution(
        id=f"exe_{name}", run_id=f"run_{name}", kind="session", target="a.b", input={}, status="running"
    )
    await store.create_session(session, root, owner="plane")


async def end(store: SqliteStore, name: str) -> None:
    row = await store.get_session(name)
    assert row is not None
    await store.update_session(name, epoch=row.epoch, state="ended", end_reason="operator")


async def refused(tokens: BrowserTokenService, token: str, use: TokenUse) -> str:
    with pytest.raises(AgentFieldError) as caught:
        await tokens.check(token, use)
    return caught.value.code


async def test_a_token_is_used_within_a_minute(tokens: BrowserTokenService, clock: Clock) -> None:
    """One that is not used in time is expired; one that is lives on."""
    unused, used = await tokens.issue_token("one"), await tokens.issue_token("one")
    clock.now += FIRST_USE - 1
    await tokens.check(used, TokenUse("one"))
    clock.now += 2
    assert await refused(tokens, unused, TokenUse("one")) == "token_expired"
    await tokens.check(used, TokenUse("one"))


async def test_a_token_lives_at_most_as_long_as_its_session_may(tokens: BrowserTokenService, clock: Clock) -> None:
    """The longest duration of the session, from its first use, and a minute to read the end."""
    token = await tokens.issue_token("one")
    await tokens.check(token, TokenUse("one"))
    clock.now += 1800 + READ_AFTER_END - 1
    await tokens.check(token, TokenUse("one"))
    clock.now += 2
    assert await refused(tokens, token, TokenUse("one")) == "token_expired"


async def test_a_token_expires_with_its_session(tokens: BrowserTokenService, store: SqliteStore, clock: Clock) -> None:
    """It may read for a minute after the end of its session, also if that is its first use."""
    token, late = await tokens.issue_token("one"), await tokens.issue_token("one")
    await tokens.check(token, TokenUse("one"))
    await end(store, "one")
    clock.now += READ_AFTER_END - 1
    await tokens.check(token, TokenUse("one"))
    await tokens.check(late, TokenUse("one"))
    clock.now += 2
    assert await refused(tokens, token, TokenUse("one")) == "token_expired"
    assert await refused(tokens, late, TokenUse("one")) == "token_expired"


async def test_a_token_belongs_to_one_session(tokens: BrowserTokenService) -> None:
    """Another session is refused, and the attempt is no use: it binds nothing."""
    token = await tokens.issue_token("one")
    assert await refused(tokens, token, TokenUse("two", origin="https://evil.example")) == "token_scope"
    assert await refused(tokens, "ek_af_unknown", TokenUse("one")) == "token_expired"
    await tokens.check(token, TokenUse("one", origin=OWN))


@pytest.mark.parametrize("first", ["https://shop.example", OWN])
async def test_a_token_is_bound_to_the_page_that_uses_it_first(tokens: BrowserTokenService, first: str) -> None:
    """Another page, a program and a page without an origin are refused afterwards."""
    token = await tokens.issue_token("one")
    await tokens.check(token, TokenUse("one", origin=first, own_origin=OWN))
    for other in ("https://evil.example", "null", ""):
        assert await refused(tokens, token, TokenUse("one", origin=other, own_origin=OWN)) == "token_origin"
    await tokens.check(token, TokenUse("one", origin=first, own_origin=OWN))


async def test_a_token_that_a_program_used_first_is_no_other_pages(tokens: BrowserTokenService) -> None:
    """Afterwards it is taken without an origin, and from the control plane's own pages."""
    token = await tokens.issue_token("one")
    await tokens.check(token, TokenUse("one", own_origin=OWN))
    assert (
        await refused(tokens, token, TokenUse("one", origin="https://shop.example", own_origin=OWN)) == "token_origin"
    )
    await tokens.check(token, TokenUse("one", own_origin=OWN))
    await tokens.check(token, TokenUse("one", origin=OWN, own_origin=OWN))


async def test_a_token_that_watches_makes_no_call(tokens: BrowserTokenService) -> None:
    """It reads events, and nothing else; a caller's token does both."""
    watch, call = await tokens.issue_token("one", rights="watch"), await tokens.issue_token("one")
    await tokens.check(watch, TokenUse("one", watches=True))
    assert await refused(tokens, watch, TokenUse("one", counts="offers")) == "token_rights"
    assert await refused(tokens, watch, TokenUse("one")) == "token_rights"
    await tokens.check(call, TokenUse("one", watches=True))
    await tokens.check(call, TokenUse("one", counts="offers"))


@pytest.mark.parametrize(("counts", "most"), [("offers", 10), ("inputs", 1000)])
async def test_a_token_sends_so_many_offers_and_inputs(tokens: BrowserTokenService, counts: str, most: int) -> None:
    """The next one is refused, what else the token may do is not; another token of the session has its own."""
    use = TokenUse("one", counts=counts)  # type: ignore[arg-type]
    token = await tokens.issue_token("one")
    for _ in range(most):
        await tokens.check(token, use)
    assert await refused(tokens, token, use) == "token_used_up"
    await tokens.check(token, TokenUse("one"))
    await tokens.check(await tokens.issue_token("one"), use)


async def test_codes_work_once_and_expire(tokens: BrowserTokenService, clock: Clock) -> None:
    """A one-time code is exchanged once, and not after it has expired."""
    code, late = await tokens.issue_code("one"), await tokens.issue_code("one")
    found = await tokens.exchange(code)
    assert (found.session_id, found.details) == ("one", False)
    await tokens.check(found.token, TokenUse("one"))
    with pytest.raises(AgentFieldError, match="used before"):
        await tokens.exchange(code)
    clock.now += 601
    with pytest.raises(AgentFieldError, match="has expired"):
        await tokens.exchange(late)


async def test_details_come_from_the_issue_only(tokens: BrowserTokenService) -> None:
    """A code of an operator gives a token that shows details; no other does."""
    found = await tokens.exchange(await tokens.issue_code("one", details=True))
    assert found.details
    assert (await tokens.check(found.token, TokenUse("one"))).details
    assert not (await tokens.check(await tokens.issue_token("one"), TokenUse("one"))).details
