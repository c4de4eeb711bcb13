"""What is kept: executions, sessions, events and tokens, behind one protocol."""
