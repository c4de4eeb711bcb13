"""Durable execution: every call of a target is a row before it is work."""
