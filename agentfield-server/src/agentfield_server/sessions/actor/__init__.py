"""One asyncio task per session: the actor runs the sans-I/O machine and performs its effects.

In: inputs of the machine, from the provider connection, the caller, the handler's node and the tool runner, all through
one bounded inbox. Out: the effects of the machine, performed in order: store writes, commands to the provider, frames to
the handler, tool executions, live events. Reading order: `actor` (the task and the dispatch of effects), `inbox`,
`writer` (store writes), `provider_connection`, `caller_access` and `caller_attachment`, `handler_channel`, `tool_runner`.

Ownership of what outlives one input:

| resource | acquired by | released by |
|---|---|---|
| session task | `LiveSessions.spawn` | return of `SessionActor.run`; `LiveSessions.close` cancels it |
| ownership of the stored session (epoch) | `Store.create_session`, `Store.take_session` | the end, or `LostOwnership` when another control plane takes it |
| credential lease | `AdapterSource.lease_credential` at the start and at recovery | `on_ended`, after the committed end and when the task ends |
| call at the provider | `ProviderConnection.negotiate`, `open` | `ProviderConnection.hang_up`; a shutdown leaves a direct call running |
| sideband and its event task | `ProviderConnection.attach` | `ProviderConnection.detach` |
| bridge and the caller's leg | `ProviderConnection.open`, `CallerAccess.connect` | `detach` for the bridge; the return of `ProviderConnection.carry` for the leg |
| rotation task | `CallerAttachment.rotate` | `CallerAttachment.close` |
| hold on a node instance (drain waits for it) | `HandlerChannel.open` | `HandlerChannel.release` |
| tasks that wait for tool executions | `ToolRunner.run` | `ToolRunner.close`; the executions themselves continue |
"""
