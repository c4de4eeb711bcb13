"""Arithmetic of usage and cost, without state of the machine.

In: usage reports of the provider, published prices, prices of the user. Out: the cost of a report (`pricing`) and sums
by kind (`totals`). `conversation.usage_meter` applies them to a session.
"""
