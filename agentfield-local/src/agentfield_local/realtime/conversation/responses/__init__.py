"""Responses of a conversation: their options, the brain request, the events in protocol order, and token usage.

`options` fills a client's parameters with the values of the session, `brain_request` builds what the brain reads,
`response` produces the events from `response.created` to `response.done`, `usage` counts tokens.
"""
