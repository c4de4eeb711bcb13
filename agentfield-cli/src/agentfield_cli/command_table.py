"""Names of the built-in `af` commands, each with its one-line summary.

The table is a module of its own because three modules read it: `main` builds the overview from it, `plugin_commands`
may not replace its names, and `af doctor` reports plugin commands that one of its names hides.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COMMANDS", "OPERATING"]

COMMANDS: Mapping[str, str] = {
    "demo": "Make a real voice call on this machine, without a key or a network.",
    "dev": "Run a control plane with the agent and the page of a folder.",
    "server": "Run a control plane.",
    "run": "Run an agent file.",
    "session": "Start, call, watch and end sessions.",
    "execute": "Call a target through the control plane.",
    "approvals": "List pending approvals and decide them.",
    "nodes": "List and drain the connected agent nodes; admit and revoke their keys.",
    "keys": "Make, list and revoke keys.",
    "access": "Show, test and explain the rules of access.",
    "adapters": "List provider/transport pairs and their capabilities.",
    "plugins": "List and check the installed plugins.",
    "webhooks": "Send events to other systems.",
    "init": "Create a project from a template.",
    "doctor": "Check this installation.",
    "store": "Show the size of the store, prune old runs, compact the file.",
    "verify": "Verify an export, a credential or a head, offline.",
    "local": "Run the offline speech server.",
}
"""Summary by command name, in the order of the overview; each equals the first line of the command's own help."""

OPERATING = frozenset({"access", "approvals", "keys", "nodes", "store", "webhooks"})
"""The commands whose modules are in `agentfield_cli.commands.operating`, not directly in `agentfield_cli.commands`."""
