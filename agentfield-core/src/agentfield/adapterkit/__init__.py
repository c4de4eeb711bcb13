"""What adapters of providers over HTTP share: nothing in here knows a provider, and importing it imports nothing else.

`provider`   whom an adapter talks to, and the key that proves who we are
`network`    which addresses may be used, and over which proxy
`http`       connections that keep no cookies, and bodies that cannot be too large
`fields`     values out of JSON that nobody has checked
`redact`     text of a provider's without secrets
`refusals`   what a provider refuses, and that it cannot be reached, as typed errors
`names`      names of tools as providers allow them, and back
`options`    what a session's `options=` hold, checked by name
"""
