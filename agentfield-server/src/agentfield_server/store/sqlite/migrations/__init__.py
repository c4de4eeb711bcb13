"""SQL scripts of the numbered migrations, a module per concern; `schema` lists them in their order.

A script is never edited after a release.
"""
