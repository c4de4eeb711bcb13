"""AgentField sessions by telephone: Twilio Media Streams as a transport."""
