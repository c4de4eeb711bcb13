"""Access control: who a request comes from, what it may do, and what ends when its rights end.

In: requests with their credentials, and calls with their chains. Out: a `Principal`, an admission, or a typed refusal. Read
`principals` (identities, scopes, grants of routes), `keys`, `policy_file` and `policies` (the rules, and the decision), `tags`,
`admission` (the one decision that all calls pass), `policy_source` (which rules are in force), `open_requests`, `ownership`,
`service` (put together), `guard` (each request before its handler). `browser_tokens` issues and checks the tokens of callers'
pages, `webhook_signatures` signs and verifies bodies that are exchanged with other systems.
"""
