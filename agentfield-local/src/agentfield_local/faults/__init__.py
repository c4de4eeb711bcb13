"""Fault injection and provider variants: what the server does where real providers differ, surprise or fail.

A `Behaviour` describes the variant; the realtime, audio and WebRTC code reads it. `behaviour` defines it, `variants`
names one instance per non-default value for tests, and `refusal_injector` refuses HTTP requests as it says. The
behaviour of chat completions is `agentfield_local.chat.behaviour`.
"""
