"""Providers for tests: scripted ones, the local server with tones for speech, and checks of what is sent to them."""
