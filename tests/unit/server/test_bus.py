"""The event bus: subscribers get every message from their subscription on, and never block a publisher."""

from __future__ import annotations

import asyncio

from agentfield_server.bus import Bus


async def test_messages_reach_all_subscribers_of_a_topic_in_order() -> None:
    """Each subscription gets what is published after it began, and nothing of other topics."""
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


async def test_a_waiting_subscriber_is_woken() -> None:
    """A subscriber that waits gets the next message."""
    bus = Bus()
    with bus.subscribe("a") as subscription:
        reading = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        bus.publish("a", "x")
        assert await reading == "x"


async def test_a_slow_subscriber_learns_that_it_lagged() -> None:
    """On overflow all pending messages are dropped: the iteration ends once, `lagged` is set, then it continues."""
    bus = Bus()
    with bus.subscribe("a", maxsize=2) as subscription:
        for n in range(4):
            bus.publish("a", n)
        assert [message async for message in subscription] == []
        assert subscription.lagged
        bus.publish("a", "new")
        assert await anext(subscription) == "new"
        assert not subscription.lagged


async def test_close_ends_a_waiting_iteration() -> None:
    """A closed subscription ends its iteration."""
    bus = Bus()
    subscription = bus.subscribe("a")
    reading = asyncio.ensure_future(anext(subscription, "end"))
    await asyncio.sleep(0)
    subscription.close()
    assert await reading == "end"
