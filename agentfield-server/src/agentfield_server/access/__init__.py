"""Access control: principals and their scopes, hosts and origins, keys, browser tokens, signatures of webhooks.

`principals` has the identities and the grants of routes, `guard` decides on each request before its handler runs, `browser_tokens` issues and checks the tokens of callers' pages,
`webhook_signatures` signs and verifies bodies that are exchanged with other systems.
"""
