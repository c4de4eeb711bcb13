"""The one line that installs a distribution of ours, true for where this code runs; strangers' names never become a command."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from importlib_metadata import PackageNotFoundError, distribution

__all__ = ["FIRST_PARTY", "FIRST_PARTY_PAIRS", "Origin", "install_hint", "origin"]

FIRST_PARTY_PAIRS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("local", "audio_turns"): "agentfield-local",
        ("local", "webrtc"): "agentfield-local",
        ("local", "websocket"): "agentfield-local",
        ("openai", "webrtc"): "agentfield-openai",
        ("openai", "websocket"): "agentfield-openai",
        ("openrouter", "audio_turns"): "agentfield-openrouter",
    }
)
"""The pairs that we ship, each with the distribution that has it."""

FIRST_PARTY = frozenset({"agentfield-core", "agentfield-server", "agentfield-cli", *FIRST_PARTY_PAIRS.values()})
"""The distributions that `install_hint` may name."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where this copy of agentfield-core was installed from, and by what."""

    workspace: Path | None = None
    """Root of the checkout that the code runs from."""
    direct_url: Mapping[str, object] | None = None
    """PEP 610 record; None when it came from an index."""
    installer: str = "pip"


def install_hint(dist: str, extra: str | None = None, *, again: bool = False, where: Origin | None = None) -> str:
    """Return the command that installs `dist` where this code runs.

    Args:
        dist: Name of a distribution.
        extra: An extra of it that is wanted.
        again: Whether it is installed and must be installed anew: without being told so an installer does nothing.
        where: Where the code was installed from; found out when left out.

    Returns:
        The command, or "" for a distribution that is not ours: no command is made from a name that somebody typed.
    """
    if dist not in FIRST_PARTY:
        return ""
    where = where or origin()
    if where.workspace is not None:
        sync = f"uv sync --reinstall-package {dist}" if again else "uv sync"
        return sync if where.workspace == Path.cwd() else f"{sync} --project {shlex.quote(str(where.workspace))}"
    installer, flag = (
        ("uv pip install", "--reinstall") if where.installer == "uv" else ("pip install", "--force-reinstall")
    )
    installer = f"{installer} {flag}" if again else installer
    wanted = f"{dist}[{extra}]" if extra else dist
    return f"{installer} {_requirement(dist, wanted, where.direct_url)}"


def _requirement(dist: str, wanted: str, direct_url: Mapping[str, object] | None) -> str:
    match direct_url:
        case {"url": str(url), "vcs_info": {"vcs": str(vcs), "commit_id": str(commit)}}:
            return shlex.quote(f"{wanted} @ {vcs}+{url}@{commit}#subdirectory={dist}")
        case {"url": str(url)} if url.startswith("file:") and url.endswith(".whl"):
            return f"--find-links {shlex.quote(str(Path(unquote(urlsplit(url).path)).parent))} {shlex.quote(wanted)}"
        case _:
            return shlex.quote(wanted)


@functools.cache
def origin() -> Origin:
    """Find out where agentfield-core was installed from."""
    workspace = _workspace(Path(__file__))
    try:
        dist = distribution("agentfield-core")
    except PackageNotFoundError:
        return Origin(workspace=workspace)
    text = dist.read_text("direct_url.json")
    return Origin(
        workspace=workspace,
        direct_url=json.loads(text) if text else None,
        installer=(dist.read_text("INSTALLER") or "pip").strip(),
    )


def _workspace(file: Path) -> Path | None:
    for folder in file.resolve().parents:
        project = folder / "pyproject.toml"
        if (folder / "agentfield-core").is_dir() and project.is_file() and "[tool.uv.workspace]" in project.read_text():
            return folder
    return None
