"""Helpers that adapters of providers over HTTP share. No module knows a provider; importing this package imports none of them.

`endpoint`      the provider's address and key
`urls`          checks of base URLs, WebSocket URLs, proxies
`http`          HTTP sessions without cookies, and bodies of limited size
`json_fields`   typed access to unchecked JSON
`redact`        text of a provider without secrets
`refusals`      refusals and connection failures as typed errors
`tool_names`    names of tools that providers accept, and back
`options`       validation of a session's `options=`
"""
