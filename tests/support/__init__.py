"""Code that several test modules share: installations, providers, callers, harnesses."""
