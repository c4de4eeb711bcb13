"""OpenAI Realtime for AgentField: a codec of its events, the carriers of its bytes, and the adapters made of both."""
