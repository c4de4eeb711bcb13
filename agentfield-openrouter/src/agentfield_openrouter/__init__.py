"""OpenRouter for AgentField: one recorded turn after another, answered by a chat completion that speaks."""
