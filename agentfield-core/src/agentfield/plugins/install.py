"""Install commands of the first-party distributions, for the environment that this code runs in.

Names of other distributions never become part of a command.
"""

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

__all__ = ["FIRST_PARTY", "FIRST_PARTY_PAIRS", "InstallOrigin", "cli_command", "install_hint", "install_origin"]

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
"""First-party pairs, each with its distribution."""

FIRST_PARTY = frozenset({"agentfield-core", "agentfield-server", "agentfield-cli", *FIRST_PARTY_PAIRS.values()})
"""First-party distributions, which `install_hint` may name."""


@dataclass(frozen=True, slots=True)
class InstallOrigin:
    """The source and installer of this copy of agentfield-core."""

    workspace: Path | None = None
    """Root of the checkout, if the code runs from one."""
    direct_url: Mapping[str, object] | None = None
    """Direct URL record (PEP 610); None for an installation from an index."""
    installer: str = "pip"


def install_hint(
    dist: str, extra: str | None = None, *, reinstall: bool = False, source: InstallOrigin | None = None
) -> str:
    """Return the command that installs a first-party distribution in this environment.

    Args:
        dist: Name of the distribution.
        extra: An extra of it.
        reinstall: Whether to reinstall; without the option an installer skips an installed distribution.
        source: Source and installer of this environment; detected by default.

    Returns:
        The command, or "" for other distributions: a user's input must not become part of a command.
    """
    if dist not in FIRST_PARTY:
        return ""
    source = source or install_origin()
    if source.workspace is not None:
        sync = f"uv sync --reinstall-package {dist}" if reinstall else "uv sync"
        return sync if source.workspace == Path.cwd() else f"{sync} --project {shlex.quote(str(source.workspace))}"
    installer, flag = (
        ("uv pip install", "--reinstall") if source.installer == "uv" else ("pip install", "--force-reinstall")
    )
    installer = f"{installer} {flag}" if reinstall else installer
    wanted = f"{dist}[{extra}]" if extra else dist
    return f"{installer} {_requirement(dist, wanted, source.direct_url)}"


def cli_command(command: str) -> str:
    """Return an `af` command, with the command that installs `af` before it where it is missing.

    Args:
        command: The command line, such as ``af server``.
    """
    try:
        distribution("agentfield-cli")
    except PackageNotFoundError:
        return f"{install_hint('agentfield-cli')} && {command}"
    return command


def _requirement(dist: str, wanted: str, direct_url: Mapping[str, object] | None) -> str:
    match direct_url:
        case {"url": str(url), "vcs_info": {"vcs": str(vcs), "commit_id": str(commit)}}:
            return shlex.quote(f"{wanted} @ {vcs}+{url}@{commit}#subdirectory={dist}")
        case {"url": str(url)} if url.startswith("file:") and url.endswith(".whl"):
            return f"--find-links {shlex.quote(str(Path(unquote(urlsplit(url).path)).parent))} {shlex.quote(wanted)}"
        case _:
            return shlex.quote(wanted)


@functools.cache
def install_origin() -> InstallOrigin:
    """Detect the source and installer of agentfield-core."""
    workspace = _workspace(Path(__file__))
    try:
        dist = distribution("agentfield-core")
    except PackageNotFoundError:
        return InstallOrigin(workspace=workspace)
    text = dist.read_text("direct_url.json")
    return InstallOrigin(
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
