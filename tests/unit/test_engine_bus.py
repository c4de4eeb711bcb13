"""The bus: who listens hears everything from then on, and nobody can hold up who publishes."""

from __future__ import annotations

import asyncio

from agentfield_server.bus import Bus


async def test_messages_reach_all_listeners_of_a_topic_in_order() -> None:
    """Each subscription gets what is published after it began, other topics stay apart."""
    bus = Bus()
    bus.publish("a", 0)
    with bus.subscribe("a") as one, bus.subscribe("a") as two, bus.subscribe("b") as other:
        bus.publish("a", 1)
        bus.publish("a", 2)
        bus.publish("b", 3)
        assert [await anext(one), await anext(one), await anext(two), await anext(two)] == [1, 2, 1, 2]
        assert await anext(other) == 3
    bus.publish("a", 4)
    assert bus._topics == {}


async def test_a_waiting_reader_is_woken() -> None:
    """A reader that waits gets the message that comes."""
    bus = Bus()
    with bus.subscribe("a") as subscription:
        reading = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        bus.publish("a", "x")
        assert await reading == "x"


async def test_a_slow_reader_is_told_once_and_may_go_on() -> None:
    """Too many messages are dropped as a whole: the iteration ends once, `lagged` says why, then it goes on."""
    bus = Bus()
    with bus.subscribe("a", maxsize=2) as subscription:
        for n in range(4):
            bus.publish("a", n)
        assert [message async for message in subscription] == []
        assert subscription.lagged
        bus.publish("a", "new")
        assert await anext(subscription) == "new"
        assert not subscription.lagged


async def test_closing_lets_a_waiting_reader_go() -> None:
    """A closed subscription ends its iteration."""
    bus = Bus()
    subscription = bus.subscribe("a")
    reading = asyncio.ensure_future(anext(subscription, "end"))
    await asyncio.sleep(0)
    subscription.close()
    assert await reading == "end"
