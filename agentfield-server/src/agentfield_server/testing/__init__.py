"""Pytest plugin for tests of agents: an in-process control plane, a scripted provider and a caller that the test plays.

Installed with ``agentfield-server[testing]``; `docs/testing.md` is the guide. A test gives agent files or `Agent` objects
to the fixture `call` and gets a `Caller`; it speaks as the caller and awaits expectations of what the agent does.

Read `plugin` (the fixtures), then `harness` (`ControlPlaneHarness`: the control plane of one test), `caller` (`Caller`,
`CallerTurn`), `expectations` (what a test awaits), `caller_connection` (WebRTC offer, media socket, recorded turns),
`event_log` (the events of the session), `call_record` (the transcript in a failure), `clock` (a clock that a test may put
forward) and `agent_files` (loads an agent file without running it).
"""
