"""Routes that carry callers' audio: the media socket, recorded turns, and the routes of transports from plugins.

`websocket_leg` is the `CallerLeg` of the media socket; the other modules are routes. Calls on direct media have no audio
here: their SDP offer is a route of `agentfield_server.api.resources.sessions`.
"""
