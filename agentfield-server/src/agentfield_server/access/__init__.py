"""Access control of HTTP requests: hosts and origins, the operator's key, browser tokens, signatures of webhooks.

`guard` decides on each request before its handler runs, `browser_tokens` issues and checks the tokens of callers' pages,
`webhook_signatures` signs and verifies bodies that are exchanged with other systems.
"""
