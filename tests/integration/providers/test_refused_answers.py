"""Recorded turns on the model's floor whose answer the provider refuses: the turn ends at once, with the provider's reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfield_local.chat.behaviour import ChatBehaviour
from support.contract.installation import Installation, Pair, declared, installation, target
from support.contract.session import ObservedSession

PAIRS: tuple[Pair, ...] = (("openrouter", "audio_turns"), ("local", "audio_turns"))
SORRY = "Sorry, please ask again."


async def nothing(session: Any) -> None: ...


async def turns(here: Installation, talk: ObservedSession) -> list[Any]:
    ran = (await here.client.workflow(talk.id)).executions
    return [each for each in ran if each.kind == "turn"]


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
@pytest.mark.parametrize(
    ("behaviour", "code", "retry_after"),
    [
        (ChatBehaviour(refuse=429, retry_after=30, refuse_count=1), "rate_limit_exceeded", 30),
        (ChatBehaviour(refuse=502, refuse_html=True, refuse_count=5), "provider_unavailable", None),
        (ChatBehaviour(refuse=422, refuse_count=1), "unprocessable", None),
    ],
    ids=["429 for 30 s", "502 as HTML", "422"],
)
async def test_a_refused_answer_fails_its_turn(
    pair: Pair, behaviour: ChatBehaviour, code: str, retry_after: int | None, tmp_path: Path
) -> None:
    """The turn fails with the provider's code, the caller hears `on_error`, and the next turn is answered."""
    app = declared(pair, nothing, floor="model", on_error=SORRY)
    async with installation(tmp_path, app, hears=["one", "two"]) as here, here.talk(target(pair)) as talk:
        here.server.chat.behaviour = behaviour
        await talk.connect()
        await talk.speak()
        await talk.until(lambda: [each for each in talk.of("speech.ended") if each["asked"] == SORRY])
        ended = await talk.recorded("execution.ended")
        assert (ended["kind"], ended["status"]) == ("turn", "failed")
        assert talk.of("speech.ended")[-1]["failed"] is None
        (failed,) = await turns(here, talk)
        assert failed.problem is not None
        assert failed.problem["provider_code"] == code
        assert failed.problem.get("retry_after") == retry_after
        await talk.speak()
        assert (await talk.recorded("execution.ended", 2))["status"] == "succeeded"
        assert not talk.over


async def test_a_short_wait_is_part_of_the_turn(tmp_path: Path) -> None:
    """A provider that asks to wait a second is asked again after it, in the same turn."""
    pair = PAIRS[0]
    app = declared(pair, nothing, floor="model", on_error=SORRY)
    async with installation(tmp_path, app, hears=["one"]) as here, here.talk(target(pair)) as talk:
        here.server.chat.behaviour = ChatBehaviour(refuse=429, retry_after=1, refuse_count=1)
        await talk.connect()
        await talk.speak()
        assert (await talk.recorded("execution.ended"))["status"] == "succeeded"
        assert [each["asked"] for each in talk.of("speech.ended")] == [None]
