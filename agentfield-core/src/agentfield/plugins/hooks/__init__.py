"""The hooks of plugins: their specifications, their implementations, and the code that calls them.

In: a registry's hook implementations (`HookRegistry`) and what happens in a control plane. Out: a decision
(`authorization`), a tool result (`middleware`), or nothing (`observers`, `lifespan`). Whatever a plugin raises stays within its hook.

To read: `hookspecs` (the hooks), `arguments` (their values), `implementations` (how they are found and checked); then one
module for each way of calling them: `authorization`, `lifespan`, `middleware`, `observers`.
"""
