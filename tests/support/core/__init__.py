"""Counterparts for tests of agentfield-core: a scripted control plane, a bridge's two ends, plugins with hooks."""
