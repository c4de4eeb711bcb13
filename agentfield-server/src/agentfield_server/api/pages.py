"""The built-in call page and a project's own `web/` folder: static files under a strict content policy."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from aiohttp import web

from agentfield.errors import NotFound
from agentfield_server.api.http.route import Route

__all__ = ["PAGE_HEADERS", "PageRoutes"]

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Sent with every static file; the call works under it."""

_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wav": "audio/wav",
    ".webm": "audio/webm",
    ".mp3": "audio/mpeg",
    ".txt": "text/plain",
    ".woff2": "font/woff2",
    ".ico": "image/x-icon",
}


class PageRoutes:
    """The routes of the call page, the browser module and, with `af dev`, the pages of a project.

    Args:
        web_dir: The project's directory; None for the built-in page only.
    """

    def __init__(self, web_dir: Path | None) -> None:
        self._web_dir = web_dir.resolve() if web_dir else None
        self._builtin = Path(str(resources.files("agentfield_server") / "web"))

    def routes(self) -> list[Route]:
        """Return the routes of the pages."""
        return [
            Route("GET", "/call", self.call_page, ("public",), "The built-in call page", view="caller"),
            Route("GET", "/", self.index, ("public",), "The project's page", view="caller"),
            Route("GET", "/{path:(?!api/).+}", self.file, ("public",), "A static file", view="caller"),
        ]

    async def call_page(self, _request: web.Request) -> web.StreamResponse:
        """Serve the page that makes a call."""
        return _send(self._builtin / "call.html")

    async def index(self, _request: web.Request) -> web.StreamResponse:
        """Serve the project's page, or the built-in call page if there is none."""
        project_page = self._web_dir / "index.html" if self._web_dir else None
        return _send(project_page if project_page and project_page.is_file() else self._builtin / "call.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Serve a file of the built-in page or of the project; no hidden file, and nothing outside of these directories."""
        path = request.match_info["path"]
        for root in (self._builtin, self._web_dir):
            found = _inside(root, path) if root else None
            if found is not None:
                return _send(found)
        raise NotFound(
            f"There is nothing at /{path[:100]}.",
            code="unknown_path",
            hint="the REST interface is below /api/v1, the call page at /call",
        )


def _inside(root: Path, path: str) -> Path | None:
    if any(part.startswith(".") for part in path.split("/")) or Path(path).suffix not in _TYPES:
        return None
    try:
        target = (root / path).resolve()
        return target if target.is_relative_to(root.resolve()) and target.is_file() else None
    except (OSError, ValueError):
        return None  # no file system has such a name: it is too long, or has a NUL character


def _send(path: Path) -> web.FileResponse:
    kind = _TYPES[path.suffix]
    charset = "; charset=utf-8" if kind.startswith("text/") or kind == "application/json" else ""
    return web.FileResponse(path, headers={**PAGE_HEADERS, "Content-Type": kind + charset})
