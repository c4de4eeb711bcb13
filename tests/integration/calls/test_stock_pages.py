"""An unmodified client of the Realtime protocol as the caller's page: it asks for answers and answers tool calls by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentfield_local.brain.protocol import BrainRequest, CallFunction, Speak, Step, ToolResult
from agentfield_local.brain.verbatim import verbatim_text
from support.contract.callers import Direct
from support.contract.installation import Pair, declared, installation, target
from support.contract.session import ObservedSession

PAIR: Pair = ("openai", "webrtc")
LONG = "one two three four five six seven eight nine ten " * 3
NOT_FOUND = f"Tool shop__slow not found. {LONG}"


async def nothing(session: Any) -> None: ...


class Brain:
    """Calls the offered tool once, then says what the last tool result is; says a long text to anything else."""

    def __init__(self, *, calls: bool = False) -> None:
        self.asked: list[BrainRequest] = []
        self._calls = calls

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        verbatim = verbatim_text(request.instructions)
        if verbatim is not None:
            return (Speak(verbatim),)
        self.asked.append(request)
        if self._calls:
            self._calls = False
            return (CallFunction(request.tools[0].name, "{}"),)
        last = request.history[-1]
        return (Speak(last.output if isinstance(last, ToolResult) else LONG),)


class Page:
    """The page: the official client sends a text and asks for the answer, and answers calls of tools that it lacks."""

    def __init__(self, talk: ObservedSession) -> None:
        assert isinstance(talk.medium, Direct)
        self.talk = talk
        self.peer = talk.medium.peer

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.peer.events if event["type"] == kind]

    def sends(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        self.peer.send({"type": "conversation.item.create", "item": item})
        self.peer.send({"type": "response.create"})

    async def answers_call(self) -> str:
        """Answer the tool call as the agents SDK does for a tool that it does not know; return the id of the result."""
        await self.talk.until(lambda: self.of("response.done"))
        (call,) = self.of("response.done")[0]["response"]["output"]
        item = {"id": "item_page", "type": "function_call_output", "call_id": call["call_id"], "output": NOT_FOUND}
        self.peer.send({"type": "conversation.item.create", "item": item})
        self.peer.send({"type": "response.create"})
        return str(item["id"])


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_typed_message_is_answered_once(cancels: bool, tmp_path: Path) -> None:
    """Item and `response.create` of a page lead to one answer, also when the page cancels it; so does the next message."""
    brain = Brain()
    app = declared(PAIR, nothing, floor="model")
    async with installation(tmp_path, app, brain=brain) as here, here.talk(target(PAIR)) as talk:
        await talk.connect()
        page = Page(talk)
        await talk.until(lambda: page.of("session.created"))
        for number in (1, 2):
            page.sends(f"message {number}")
            if cancels:
                await talk.until(lambda: len(page.of("output_audio_buffer.started")) >= number)  # noqa: B023
                page.peer.send({"type": "response.cancel"})
                page.peer.send({"type": "output_audio_buffer.clear"})
            await talk.recorded("execution.ended", number)
        assert len(brain.asked) == 2
        spoken = [each for each in talk.of("speech.ended") if not each["stale"]]
        assert [each["interrupted"] for each in spoken] == [cancels, cancels]
        assert [each["status"] for each in talk.of("execution.ended")] == ["succeeded", "succeeded"]


async def test_a_tool_call_that_the_page_answers_keeps_its_own_result(tmp_path: Path) -> None:
    """The page's "not found" is deleted and its answer is stopped; the model speaks about the tool's own result."""
    brain = Brain(calls=True)
    app = declared(PAIR, nothing, floor="model", tools=["shop.slow"])
    async with installation(tmp_path, app, brain=brain) as here, here.talk(target(PAIR)) as talk:
        await talk.connect()
        page = Page(talk)
        await talk.until(lambda: page.of("session.created"))
        await talk.speak()
        foreign = await page.answers_call()
        await talk.until(lambda: foreign in [event["item_id"] for event in page.of("conversation.item.deleted")])
        await talk.until(lambda: len(page.of("response.done")) >= 2)
        release: asyncio.Event = app.release  # type: ignore[attr-defined]
        release.set()
        ended = await talk.recorded("execution.ended", 2)
        assert (ended["kind"], ended["status"]) == ("turn", "succeeded")
        assert [entry.output for entry in brain.asked[-1].history if isinstance(entry, ToolResult)] == [
            '"done at last"'
        ]
        assert [each["generated"] for each in talk.of("speech.ended")] == ["", '"done at last"']
        stopped = page.of("response.done")[1]["response"]["id"]
        assert stopped not in [event["response_id"] for event in page.of("output_audio_buffer.stopped")]
        assert [each["code"] for each in talk.of("warning")] == ["tampered_output", "unasked_reply"]
