"""Access over REST: policies, tags, and the explanation of a decision."""

from __future__ import annotations

from aiohttp import web

from agentfield.errors import NotFound
from agentfield.wire.access import (
    EdgeView,
    ExplainRequest,
    ExplainView,
    PolicyRequest,
    PolicyView,
    TagRequest,
    TagsView,
    TagView,
)
from agentfield_server.access.policies import Decision, Member
from agentfield_server.access.policy_file import MAX_DOCUMENT
from agentfield_server.access.principals import PRINCIPAL, Access, Principal
from agentfield_server.access.service import AccessService
from agentfield_server.api.http.bodies import json_reply, read_model
from agentfield_server.api.http.route import Route
from agentfield_server.nodes import LinkHub

__all__ = ["AccessRoutes"]

_READ: Access = ("operator", "reader")
_MAX_BODY = 2 * MAX_DOCUMENT


class AccessRoutes:
    """The routes of policies and tags.

    Args:
        access: Access control.
        hub: Knows the targets.
    """

    def __init__(self, access: AccessService, hub: LinkHub) -> None:
        self._access = access
        self._hub = hub

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/access"
        tag = base + "/tags/{name}/{tag}"
        return [
            Route("GET", base + "/policies", self.policies, _READ, "Show the policies in force", response=PolicyView),
            Route(
                "POST",
                base + "/policies",
                self.replace,
                ("operator",),
                "Put other policies in force",
                request=PolicyRequest,
                response=PolicyView,
            ),
            Route(
                "POST",
                base + "/explain",
                self.explain,
                _READ,
                "Explain the decision about a call",
                request=ExplainRequest,
                response=ExplainView,
            ),
            Route("GET", base + "/tags", self.tags, _READ, "List the tags", response=TagsView),
            Route("POST", base + "/tags", self.approve, ("operator",), "Approve or give a tag", request=TagRequest),
            Route("DELETE", tag, self.remove, ("operator",), "Remove a tag"),
        ]

    async def policies(self, _: web.Request) -> web.Response:
        """Show the policies in force; version 0 is none."""
        return json_reply(self._policies())

    async def replace(self, request: web.Request) -> web.Response:
        """Put other policies in force; refused where they come from a file."""
        body = await read_model(request, PolicyRequest, max_bytes=_MAX_BODY)
        await self._access.policies.replace(body.document, by=request[PRINCIPAL])
        return json_reply(self._policies())

    async def explain(self, request: web.Request) -> web.Response:
        """Explain the decision about a call, edge by edge."""
        body = await read_model(request, ExplainRequest)
        control = self._access.control
        known = {**dict.fromkeys(self._hub.functions(), "caller"), **dict.fromkeys(self._hub.sessions(), "starter")}
        target = control.tags.target(body.target)
        if body.target not in known and not target.seen:
            raise NotFound(
                f"No node ever declared {body.target!r}.", code="unknown_target", hint="af nodes", target=body.target
            )
        principal = control.principal(body.caller) if ":" in body.caller or body.caller == "local" else None
        if principal is not None:
            first = control.tags.principal(principal)
        elif "." in body.caller and ":" not in body.caller:
            first = control.tags.target(body.caller)
        else:
            first = None
        return json_reply(self._explained(body, principal, first, known.get(body.target)))

    async def tags(self, _: web.Request) -> web.Response:
        """List the tags of targets, nodes and transports."""
        rows = await self._access.tags.list()
        views = tuple(
            TagView(
                name=row.name,
                tag=row.tag,
                declared=row.proposed_at is not None,
                approved=row.approved_at is not None,
                approved_by=row.approved_by,
            )
            for row in rows
        )
        return json_reply(TagsView(tags=views))

    async def approve(self, request: web.Request) -> web.Response:
        """Approve a tag that a node declared, or give one."""
        body = await read_model(request, TagRequest)
        await self._access.tags.approve(body.name, body.tag, by=request[PRINCIPAL])
        return json_reply({"name": body.name, "tag": body.tag, "approved": True})

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a tag; a node that still declares it brings it back at its next link."""
        name, tag = request.match_info["name"], request.match_info["tag"]
        await self._access.tags.remove(name, tag)
        return json_reply({"name": name, "tag": tag, "removed": True})

    def _policies(self) -> PolicyView:
        row, open_ = self._access.policies.row, self._access.control.open
        if row is None:
            return PolicyView(version=0, development=open_)
        return PolicyView(
            version=row.version,
            source=row.source,
            document=row.document,
            set_by=row.set_by,
            created_at=row.created_at,
            development=open_,
        )

    def _explained(
        self, body: ExplainRequest, principal: Principal | None, first: Member | None, scope: str | None
    ) -> ExplainView:
        control = self._access.control
        version = control.policies.version
        if control.open:
            return ExplainView(allowed=True, version=version, why="development mode without policies: all is allowed")
        if first is None:
            why = f"{body.caller} is no key, node, transport or target that has rights now"
            return ExplainView(allowed=False, version=version, why=why)
        chain = [first, *(control.tags.target(name) for name in body.through)]
        target = control.tags.target(body.target)
        decision = control.policies.decide(chain, target, body.input)
        edges = tuple(
            EdgeView(caller=edge.caller, target=edge.target, allowed=edge.allowed, rule=edge.rule)
            for edge in decision.edges
        )
        begun = body.through[0] if body.through else body.target
        begun_scope = scope if not body.through else ("starter" if begun in self._hub.sessions() else "caller")
        # a key needs the scope for whatever it begins, a node only for an untagged target
        scoped = principal is not None and (principal.kind == "key" or not control.tags.target(begun).seen)
        if decision.allowed and principal is not None and scoped and begun_scope and principal.kind != "transport":
            scopes = principal.scopes if principal.kind != "node" else control.scopes_of_node(principal.id)
            if begun_scope not in scopes:
                why = f"{body.caller} has no scope {begun_scope}, which {begun} needs"
                return ExplainView(allowed=False, version=version, why=why, edges=edges)
        return ExplainView(allowed=decision.allowed, version=version, why=_why(decision, target), edges=edges)


def _why(decision: Decision, target: Member) -> str:
    edge = decision.edges[-1]
    if edge.rule is not None:
        return f"the rule {edge.rule!r} {'allows' if edge.allowed else 'denies'} it"
    return (
        "the target has no tags"
        if edge.allowed
        else f"{edge.target} is tagged ({_tags(decision, target)}), and no rule allows it"
    )


def _tags(decision: Decision, target: Member) -> str:
    return ", ".join(sorted(target.seen)) if decision.edges[-1].target == target.name else "see af access tags"
