"""The caller's view of a session: none of its routes and streams reveals what is the operator's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import ProviderError
from agentfield.plugins import Registry
from agentfield.wire.access import KeyRequest
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_server.access.attempts import STREAMS_OF_TOKEN
from support.server.bridged_calls import Installation, run_installation
from support.waiting import until_async

SECRET = "hunter2-the-password-of-the-database"
ERRORS = "raised with"
KEY = "a key of the test, long enough"


def agent(*, show_tools: bool = True) -> Agent:
    """Return an agent all of whose inner life names the secret."""
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def lookup(key: str) -> dict[str, str]:
        return {"row": SECRET, "key": key}

    @app.reasoner()
    async def refund(reason: str) -> dict[str, str]:
        await app.call("shop.lookup", key=SECRET)
        return {"note": SECRET, "reason": reason}

    @app.reasoner()
    async def broken(reason: str) -> None:
        raise RuntimeError(f"{ERRORS} {SECRET} {reason}")

    @app.session(
        "voice", provider="acme", transport="websocket", instructions=f"Never say {SECRET}.", show_tools=show_tools
    )
    async def voice(session: Any) -> None:
        await session.call("shop.refund", reason=SECRET)
        try:
            await session.call("shop.broken", reason=SECRET)
        except Exception as error:
            raise RuntimeError(f"{ERRORS} {SECRET}") from error

    return app


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Installation]:
    async with run_installation(tmp_path, agent=agent) as running:
        yield running


async def start(it: Installation, **asked: Any) -> StartResponse:
    request = StartRequest(target="shop.voice", caller="ann", metadata={"card": SECRET}, **asked)
    return await it.client.start_session(request)


async def read(it: Installation, session: StartResponse, path: str, token: str | None) -> str:
    """Return the whole answer of a route of the session."""
    url = f"{it.plane.url}/api/v1/sessions/{session.session_id}{path}"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with it.http.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.text()


def events(stream: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]


async def finished(it: Installation, session: StartResponse) -> list[str]:
    """Make a call until the handler has failed and the session is over; return all frames that its caller got."""
    caller, _ = await it.live(session)

    async def failed() -> bool:
        rows = await it.client.workflow(session.session_id)
        return any(row.target == "shop.broken" and row.status == "failed" for row in rows.executions)

    await until_async(failed)
    await it.client.end_session(session.session_id)
    await caller.frame("ended")
    return [json.dumps(frame) for frame in caller.frames]


async def test_a_caller_learns_nothing_of_the_operators(it: Installation) -> None:
    """Instructions, metadata, inputs, outputs, nested calls and texts of exceptions are in no answer; an operator gets them."""
    session = await start(it)
    assert not session.details
    frames = await finished(it, session)
    answers = {path: await read(it, session, path, session.token) for path in ("", "/events", "/workflows")}
    for name, answer in {**answers, "frames": "\n".join(frames)}.items():
        assert SECRET not in answer, name
        assert ERRORS not in answer, name
        assert "shop.lookup" not in answer, name
    for path in ("", "/events", "/workflows"):
        assert SECRET in await read(it, session, path, None), path


async def test_a_caller_sees_tools_by_name_and_state(it: Installation) -> None:
    """The calls of the conversation have a name, a state and times; a failed one has the number of its event."""
    session = await start(it)
    await finished(it, session)
    page = json.loads(await read(it, session, "/workflows", session.token))
    assert [(row["target"], row["status"]) for row in page["executions"]][:2] == [
        ("shop.refund", "succeeded"),
        ("shop.broken", "failed"),
    ]
    assert all(row["input"] is None and row["output"] is None and not row["history"] for row in page["executions"])
    seen = events(await read(it, session, "/events", session.token))
    ends = [event for event in seen if event["type"] == "execution.ended"]
    assert [(event["body"]["target"], event["body"]["status"]) for event in ends][:2] == [
        ("shop.refund", "succeeded"),
        ("shop.broken", "failed"),
    ]
    assert ends[1]["body"]["problem"] == {"code": "failed", "detail": f"it failed ({ends[1]['id']})"}
    failure = next(event for event in seen if event["type"] == "handler.failed")
    assert failure["body"] == {"message": f"it failed ({failure['id']})"}
    everything = events(await read(it, session, "/events", None))
    assert {event["seq"] for event in seen if "seq" in event} < {event["seq"] for event in everything if "seq" in event}
    assert [event["body"] for event in seen if event["type"] == "session.state"][-1] == {
        "state": "ended",
        "reason": "operator",
    }


async def test_tools_may_be_hidden(tmp_path: Path) -> None:
    """With `show_tools=False` a caller does not learn that there are tools."""
    async with run_installation(tmp_path, agent=partial(agent, show_tools=False)) as it:
        session = await start(it)
        frames = await finished(it, session)
        assert json.loads(await read(it, session, "/workflows", session.token))["executions"] == []
        assert "shop." not in (await read(it, session, "/events", session.token)).replace("shop.voice", "")
        assert "shop.refund" not in "".join(frames)


async def test_details_are_for_operators(it: Installation) -> None:
    """An operator may ask for a token and a page that show everything."""
    session = await start(it, details=True)
    assert session.details
    await finished(it, session)
    assert SECRET in await read(it, session, "/workflows", session.token)
    url = f"{it.plane.url}/api/v1/sessions"
    code = session.page_url.partition("#code=")[2]
    async with it.http.post(f"{url}/exchange", json={"code": code}) as response:
        exchanged = await response.json()
    assert exchanged["details"]
    assert SECRET in await read(it, session, "", exchanged["token"])


async def test_only_an_operator_gets_details(tmp_path: Path) -> None:
    """A key that may start sessions asks for details in vain: at the start, and for a further token."""
    async with run_installation(tmp_path, agent=agent, api_key=KEY) as it:
        made = await it.client.create_key(KeyRequest(scopes=("starter",)))
        async with ControlPlaneClient(it.plane.url, api_key=made.key) as starter:
            request = StartRequest(target="shop.voice", metadata={"card": SECRET}, details=True)
            session = await starter.start_session(request)
        assert not session.details
        url = f"{it.plane.url}/api/v1/sessions/{session.session_id}"
        headers = {"Authorization": f"Bearer {made.key}"}
        async with it.http.post(f"{url}/tokens", json={"details": True}, headers=headers) as response:
            assert (response.status, (await response.json())["details"]) == (201, False)
        assert SECRET not in await read(it, session, "", made.key)
        assert SECRET in await read(it, session, "", KEY)


async def test_a_token_that_watches_reads_events_only(it: Installation) -> None:
    """It is issued by an operator, shows the caller's view, and is refused everywhere else."""
    session = await start(it)
    await finished(it, session)
    url = f"{it.plane.url}/api/v1/sessions/{session.session_id}"
    async with it.http.post(f"{url}/tokens", json={"rights": "watch"}) as response:
        assert response.status == 201
        issued = await response.json()
    assert SECRET not in await read(it, session, "/events", issued["token"])
    headers = {"Authorization": f"Bearer {issued['token']}"}
    for method, path in (("POST", "/offer"), ("POST", "/input"), ("POST", "/end"), ("GET", "/workflows"), ("GET", "")):
        async with it.http.request(method, url + path, headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == (403, "token_rights"), path
    async with it.http.post(f"{url}/tokens", json={}, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (403, "token_scope")


async def test_a_failure_is_neutral_for_callers(it: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller gets the code and a number, an operator what the provider said."""

    async def refuse(*_: object) -> None:
        raise ProviderError(f"Incorrect API key provided: {SECRET}.")

    session = await start(it)
    monkeypatch.setattr(it.plane.sessions, "input_text", refuse)
    url = f"{it.plane.url}/api/v1/sessions/{session.session_id}/input"
    headers = {"Authorization": f"Bearer {session.token}"}
    async with it.http.post(url, json={"text": "hi"}, headers=headers) as response:
        assert response.status == 502
        problem = await response.json()
    assert SECRET not in json.dumps(problem)
    assert problem["code"] == "provider_error"
    assert problem["detail"].startswith("The call failed (evt_")
    async with it.http.post(url, json={"text": "hi"}) as response:
        assert SECRET in (await response.json())["detail"]


async def test_somebody_who_watches_is_no_caller(it: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of events of a token that watches does not count as the caller's presence."""
    session = await start(it)
    url = f"{it.plane.url}/api/v1/sessions/{session.session_id}"
    async with it.http.post(f"{url}/tokens", json={"rights": "watch"}) as response:
        watch = (await response.json())["token"]
    attached: list[str] = []
    monkeypatch.setattr(
        it.plane.sessions, "caller_attached", lambda session_id: attached.append(session_id) or nullcontext()
    )
    for token, present in ((watch, []), (session.token, [session.session_id])):
        async with it.http.get(f"{url}/events", headers={"Authorization": f"Bearer {token}"}) as stream:
            await stream.content.readline()
        assert attached == present


async def test_one_caller_does_not_take_all_streams(it: Installation) -> None:
    """Beyond its limit a token gets 429; another session and the operator do not, and a closed stream makes room."""
    one, two = await start(it), await start(it)
    url = f"{it.plane.url}/api/v1/sessions"

    async def opened(stack: AsyncExitStack, session: StartResponse, token: str | None) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = await stack.enter_async_context(it.http.get(f"{url}/{session.session_id}/events", headers=headers))
        return answer.status

    async with AsyncExitStack() as stack:
        statuses = [await opened(stack, one, one.token) for _ in range(STREAMS_OF_TOKEN + 1)]
        assert statuses == [200] * STREAMS_OF_TOKEN + [429]
        assert await opened(stack, two, two.token) == 200
        assert await opened(stack, one, None) == 200

    async def admitted() -> bool:
        async with AsyncExitStack() as stack:
            return await opened(stack, one, one.token) == 200

    await until_async(admitted)
