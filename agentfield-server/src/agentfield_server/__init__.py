"""The control plane: owns the provider key, carries calls, runs every tool call durably, and records what happened."""
