"""REST interface of the control plane: HTTP requests in; JSON, event streams, problem documents and WebSockets out.

Reading order: `http` (the route table and what all routes share), `resources` (one module per REST resource), `callers`
(the routes that carry callers' audio), `pages` (static files), `openapi` (the document made from the route table) and
`application` (the aiohttp application, with one function around each handler). `agentfield_server.app` passes the services to the routes.
"""
