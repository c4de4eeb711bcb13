"""Wire-level helpers shared by every protocol of the server: refusals, strict models and ids. Sans-I/O.

`refusals` holds the exception that becomes an `error` event or an HTTP error body, `json_values` parses what clients
send, `validation` turns a pydantic error into a refusal, and `ids` makes the ids of objects and events. Read them in
this order.
"""
