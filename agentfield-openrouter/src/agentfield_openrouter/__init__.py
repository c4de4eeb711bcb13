"""OpenRouter audio turns for AgentField."""
