"""Chat completions with audio, compatible with OpenRouter and OpenAI: recorded turns in, streamed speech out.

A request body goes in, server-sent events (or one JSON object) come out. In the order of a request: `routes`, `request`
(models), `validation` (rules across fields), `recordings` and `prompt` (what the brain reads), `completion` (produces
the chunks of `chunks`), `streaming` with `sse`, or `json_response`. `behaviour` holds variants and faults, `refusals`
the error shape, `generations` the record of past completions, `disconnect` the end of a client.
"""
