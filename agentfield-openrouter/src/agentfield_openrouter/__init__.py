"""OpenRouter for AgentField: the provider is declared, no pair of it is there yet."""
