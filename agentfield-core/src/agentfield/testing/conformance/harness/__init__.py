"""The harnesses of the conformance kit: they take the control plane's place around the code under test.

In: a pair or a transport (`subject`) and its peer. Out: an entered adapter with its sessions (`adapter_harness`,
`harness_session`), or a transport with its caller (`transport_harness`). To read: `waiting` (deadlines, and tasks that refuse
to end), `blocked_loop`, `lifetime` (factories), `event_rules` (checked for every session), `adapter_runtime`.
"""
