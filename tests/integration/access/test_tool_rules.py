"""Rules of access in a call: the model's tools and the handler's calls are admitted with the chain of the session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.plugins import Registry
from agentfield.testing.scripted import ModelRequest, ScriptedProvider, ToolUse
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from agentfield_server.testing import harness
from agentfield_server.testing.pytest_plugin import StartCall

OPENS = '[[rule]]\nid = "calls"\nfrom = ["local"]\nto = ["tag:support"]\neffect = "allow"\n'
PAYS = '[[rule]]\nid = "pays"\nfrom = ["shop.voice"]\nto = ["tag:money:move"]\neffect = "allow"\n'


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the rules of the control plane of `call`."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    file = tmp_path / "policies.toml"

    def with_file(settings: Settings, **options: Any) -> AbstractAsyncContextManager[ControlPlane]:
        return control_plane(settings.model_copy(update={"policies": file}), **options)

    monkeypatch.setattr(harness, "control_plane", with_file)

    def write(text: str) -> None:
        file.write_text(text)

    return write


def shop(ran: list[float]) -> Agent:
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner(tags=["money:move"])
    async def pay(amount: float) -> str:
        ran.append(amount)
        return "paid"

    @app.session("voice", provider="scripted", transport="webrtc", floor="model", tools=["shop.pay"], tags=["support"])
    async def voice(session: Any) -> None:
        await session.input()

    return app


@pytest.mark.parametrize(("text", "paid"), [(OPENS, []), (OPENS + PAYS, [5])])
async def test_a_tool_of_the_model_needs_the_right_of_its_session(
    call: StartCall,
    scripted_provider: ScriptedProvider,
    rules: Callable[[str], None],
    text: str,
    paid: list[float],
) -> None:
    """The model's tool runs only where a rule allows the edge from the session; the model is told of a refusal."""
    rules(text)
    ran: list[float] = []
    seen: list[Any] = []

    def answer(request: ModelRequest) -> str:
        seen.append(dict(request.results))
        return "Done."

    scripted_provider.answers(ToolUse("shop.pay", amount=5), answer)
    async with call(shop(ran)) as caller:
        turn = await caller.says("pay five")
        await turn.speaks("Done.")
        await caller.hangs_up()
    assert ran == paid
    [results] = seen
    if paid:
        assert results["shop.pay"] == "paid"
    else:
        assert "access_denied" in str(results["shop.pay"])
