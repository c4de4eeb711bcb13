"""Guard against tools that run inside the provider (MCP): they are undeclared, unchecked and unrecorded, so refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agentfield.adapterkit.json_fields import id_at, object_at, objects_at, text_at
from agentfield.realtime.events import Event, ProviderFault, Warned
from agentfield_openai.codec.state import BoundedDict, CodecState

__all__ = ["ProviderSideToolGuard"]

_ITEMS = frozenset({"mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"})
_MAX_REMOVED = 3
_CODE = "provider_side_tool"
_MESSAGE = "A tool was added that runs inside the provider, where it is neither checked nor recorded"


class ProviderSideToolGuard:
    """Detects items of provider-side tools and applies the drift policy of the session to them.

    Args:
        state: The state of the codec.
        policy: `enforce` removes the items (at most three times), `terminate` ends the call, `allow` warns.
    """

    def __init__(self, state: CodecState, policy: Literal["enforce", "terminate", "allow"]) -> None:
        self._state = state
        self._policy = policy
        self._seen: BoundedDict[str, None] = BoundedDict(256)
        self._removed = 0
        self.restore = False
        """Whether our configuration must be sent again."""

    def inspect(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        """Return the events for a server event that shows a provider-side tool, none for any other."""
        items = [object_at(data, "item"), *objects_at(object_at(data, "response"), "output")]
        found = [id_at(item, "id") for item in items if text_at(item, "type") in _ITEMS]
        if kind.startswith(("mcp_", "response.mcp_")):
            found.append(id_at(data, "item_id"))
        return [event for item in found if item is not None for event in self._refuse(item)]

    def _refuse(self, item: str) -> list[Event]:
        if item in self._seen:
            return []
        self._seen.set(item, None)
        if self._policy == "allow":
            return [Warned(code=_CODE, message=f"{_MESSAGE}.")]
        if self._policy == "terminate" or self._removed >= _MAX_REMOVED:
            return [ProviderFault(code=_CODE, message=f"{_MESSAGE}.", fatal=True)]
        self._removed += 1
        self._state.outbox.append(self._state.delete(item))
        self.restore = True
        return [ProviderFault(code=_CODE, message=f"{_MESSAGE}; it was removed.")]
