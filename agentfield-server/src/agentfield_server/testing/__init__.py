"""How users test their agents: a pytest plugin with an in-process control plane and a scripted caller and model.

Installed with ``agentfield-server[testing]``; `agentfield_server.testing.plugin` has the fixtures, `docs/testing.md` the
way to use them.
"""
