"""A client of the control plane's REST interface: what `af`, pages' servers and scripts use."""

from __future__ import annotations

from agentfield.client.client import ControlPlaneClient
from agentfield.settings import discover_api_key, discover_url

__all__ = ["ControlPlaneClient", "discover_api_key", "discover_url"]
