"""Tools that run inside the provider: nobody declared them, nothing checks or records them, so they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agentfield.adapterkit.fields import ident, mapping, mappings, words
from agentfield.realtime.events import Event, ProviderFault, Warned
from agentfield_openai.codec.ledger import Ledger, Recent

__all__ = ["Intruders"]

_ITEMS = frozenset({"mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"})
_MOST_REMOVED = 3
_CODE = "provider_side_tool"
_WHAT = "A tool was added that runs inside the provider, where it is neither checked nor recorded"


class Intruders:
    """Finds traces of provider-side tools and applies the session's drift policy to them.

    Args:
        ledger: The memory of the call.
        policy: `enforce` removes them (a few times), `terminate` ends the call, `allow` warns.
    """

    def __init__(self, ledger: Ledger, policy: Literal["enforce", "terminate", "allow"]) -> None:
        self._ledger = ledger
        self._policy = policy
        self._seen: Recent[str, None] = Recent(256)
        self._removed = 0
        self.restore = False
        """Whether our configuration has to be sent again."""

    def look(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        """Return what an event means if it shows such a tool, nothing otherwise."""
        items = [mapping(data, "item"), *mappings(mapping(data, "response"), "output")]
        found = [ident(item, "id") for item in items if words(item, "type") in _ITEMS]
        if kind.startswith(("mcp_", "response.mcp_")):
            found.append(ident(data, "item_id"))
        return [event for item in found if item is not None for event in self._refuse(item)]

    def _refuse(self, item: str) -> list[Event]:
        if item in self._seen:
            return []
        self._seen.set(item, None)
        if self._policy == "allow":
            return [Warned(code=_CODE, message=f"{_WHAT}.")]
        if self._policy == "terminate" or self._removed >= _MOST_REMOVED:
            return [ProviderFault(code=_CODE, message=f"{_WHAT}.", fatal=True)]
        self._removed += 1
        self._ledger.outbox.append(self._ledger.delete(item))
        self.restore = True
        return [ProviderFault(code=_CODE, message=f"{_WHAT}; it was removed.")]
