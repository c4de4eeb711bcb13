"""A provider for AgentField that hears the keys of a telephone and answers in tones."""
