"""For tests of agents and adapters; nothing of it is imported by what runs in production."""
