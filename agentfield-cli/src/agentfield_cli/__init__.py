"""af: the command line of AgentField."""
