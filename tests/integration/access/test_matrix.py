"""The access matrix: what the route table declares is what requests observe; nothing is without a rule."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from agentfield.plugins.hooks import hookspecs
from agentfield.wire import execution_frames, frames
from agentfield_server.api.http.route import Route
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support import access_matrix
from support.access_matrix import CREDENTIALS, FRAMES, HOOKS, PAGE, core_routes, declared, observe_all, open_matrix

_FROM_NODE = (execution_frames.Accepted, execution_frames.Result, execution_frames.Progress, execution_frames.Call)


async def test_requests_observe_what_the_route_table_declares(tmp_path: Path) -> None:
    """Each credential on each route: real requests get what the table says, those of plugins included."""
    async with open_matrix(tmp_path) as matrix:
        found = await observe_all(matrix, matrix.plane.routes)
        expected = {
            (route.method, route.path, credential): declared(route, credential)
            for route in matrix.plane.routes
            for credential in CREDENTIALS
        }
    differences = {key: (value, expected[key]) for key, value in found.items() if value != expected[key]}
    assert differences == {}
    assert len(found) > 500


async def test_the_page_has_the_matrix(tmp_path: Path) -> None:
    """`docs/security.md` has the tables of this version, and the tests that it names exist."""
    async with control_plane(Settings(home=tmp_path, port=0), environ={}) as plane:
        routes = core_routes(plane)
    page = PAGE.read_text(encoding="utf-8")
    assert access_matrix.page_with_tables(page, routes) == page, f"write it anew: {access_matrix.COMMAND}"
    for cell in page.replace("|", " ").split("`"):
        if cell.startswith("tests/"):
            file, _, name = cell.partition("::")
            assert (access_matrix.ROOT / file).exists(), cell
            assert not name or f"def {name}(" in (access_matrix.ROOT / file).read_text(encoding="utf-8"), cell


def test_every_frame_and_hook_has_a_rule() -> None:
    """A frame of nodes or a hook that is added needs a rule of access on the page."""
    models = {kind.__name__ for kind in typing.get_args(frames.NodeFrame)}
    structs = {kind.__name__ for kind in _FROM_NODE}
    assert structs == {kind.__name__ for kind in frames._from_node._structs.values()}
    assert set(FRAMES) == models | structs
    named = {name for name in vars(hookspecs.PluginHooks) if name.startswith("agentfield_")}
    assert set(HOOKS) == named


def test_a_route_names_its_access() -> None:
    """A route without a grant cannot be made."""

    async def nothing(_: object) -> typing.Any:
        raise AssertionError("no such route is made, so nobody calls this")

    with pytest.raises(ValueError, match="no grant of access"):
        Route("GET", "/x", nothing, (), "Nothing")


@pytest.mark.parametrize("access", [("token", "operator"), ("public",)])
def test_a_route_that_callers_may_use_declares_their_view(access: typing.Any) -> None:
    """A route for tokens or for everybody cannot be made with the operator's view."""

    async def nothing(_: object) -> typing.Any:
        raise AssertionError("no such route is made, so nobody calls this")

    with pytest.raises(ValueError, match="shows them the operator's view"):
        Route("GET", "/{session_id}", nothing, access, "Nothing")
    Route("GET", "/{session_id}", nothing, access, "Nothing", view="caller")
