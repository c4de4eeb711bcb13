"""Live calls: the state machine, the runtime that drives it, tools and recovery."""
