"""Adapters of the tone provider with one fault each; the conformance kit must find each fault."""
