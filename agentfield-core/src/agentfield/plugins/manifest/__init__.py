"""The manifest of a plugin: its records, their checks, and the choices that sessions make from them.

In: the `Manifest` that a plugin returns, and a session's options, model and voice. Out: problems as text, validated
choices, and imported factories. To read: `spec` (the records), `core_transports`, `checks`, `choices`, `references`,
`needs_parser` (needs as users type them).
"""
