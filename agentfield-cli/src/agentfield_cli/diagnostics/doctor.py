"""Checks of `af doctor`: each one reports a finding and, if something is wrong, a hint."""

from __future__ import annotations

import asyncio
import os
import platform
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from agentfield.errors import AgentFieldError
from agentfield.plugins.install import FIRST_PARTY, install_hint
from agentfield.plugins.registry.registry import Registry
from agentfield.plugins.wording import did_you_mean
from agentfield.processes.event_loop import EVENT_LOOP, describe
from agentfield.settings import discover_url, home
from agentfield_cli.command_table import COMMANDS
from agentfield_cli.diagnostics.foreign_package import (
    REINSTALL_HINT,
    foreign_distributions,
    overwritten_files,
    shadowing_origin,
)
from agentfield_cli.diagnostics.inspection import registry_for_inspection
from agentfield_cli.plugin_commands import plugin_command_entries

__all__ = ["Check", "run_checks"]

_GENERAL_VARIABLES = (
    "AGENTFIELD_URL",
    "AGENTFIELD_DISABLE_PLUGINS",
    "AGENTFIELD_DRAIN_SECONDS",
    EVENT_LOOP,
    "AGENTFIELD_NO_PLUGIN_AUTOLOAD",
    "AGENTFIELD_PLUGINS_STRICT",
    "AGENTFIELD_PREFER",
    "AGENTFIELD_TESTING_PATIENCE",
)
"""Variables that are read besides the settings of the control plane and of plugins."""

_ANSWER_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check."""

    name: str
    state: Literal["ok", "warning", "problem"]
    text: str
    hint: str = ""


def run_checks(url: str | None = None, env: Mapping[str, str] = os.environ) -> list[Check]:
    """Run all checks.

    Args:
        url: Address of the control plane; None reads it from the environment.
        env: The environment.
    """
    registry, checks = None, [_python(), *_distributions(), *_foreign_package()]
    try:
        registry = registry_for_inspection()
    except AgentFieldError as error:  # AGENTFIELD_PREFER names an unknown plugin
        checks.append(Check("plugins", "problem", error.message, error.hint or ""))
    checks += _plugins(registry) if registry else ()
    checks += [*_commands(), *_settings(registry or Registry(), env), *_folder(home(env))]
    checks += [_extra("media", "av", "agentfield-server", "converts and decodes audio")]
    checks += [_extra("call", "aiortc", "agentfield-cli", "makes calls from this terminal")]
    checks += [_event_loop(env), _control_plane(url)]
    return checks


def _python() -> Check:
    text = f"Python {platform.python_version()}, {sys.executable}, {platform.system()} {platform.machine()}"
    return Check("python", "ok", text)


def _distributions() -> Iterator[Check]:
    found = {}
    for dist in sorted(FIRST_PARTY):
        try:
            found[dist] = version(dist)
        except PackageNotFoundError:
            continue
    text = ", ".join(f"{dist} {number}" for dist, number in found.items())
    if len(set(found.values())) > 1:
        hint = install_hint("agentfield-core") or "install the same version of all of them"
        yield Check("distributions", "problem", f"the versions differ but must be equal: {text}", hint)
    else:
        yield Check("distributions", "ok", text)


def _foreign_package() -> Iterator[Check]:
    others, files, elsewhere = foreign_distributions(), overwritten_files(), shadowing_origin()
    names = " ".join(other.split()[0] for other in others) or "agentfield"
    hint = REINSTALL_HINT.format(names=names)
    if others:
        text = f"{', '.join(others)} is an unrelated project that ships a package `agentfield` too and replaces ours"
        yield Check("package", "problem", text, hint)
    if files:
        shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        yield Check("package", "problem", f"files of agentfield-core were changed after installation: {shown}", hint)
    if elsewhere:
        yield Check(
            "package", "problem", f"`import agentfield` finds {elsewhere}, which is not agentfield-core's", hint
        )
    if not (others or files or elsewhere):
        yield Check("package", "ok", "`import agentfield` is agentfield-core's")


def _plugins(registry: Registry) -> Iterator[Check]:
    for record in registry.plugins:
        match record.state:
            case "ok":
                pairs = ", ".join(sorted({spec.name for spec, owner in registry.pairs() if owner == record}))
                yield Check("plugin", "ok", f"{record.label}: {pairs or 'no pairs'}")
            case "disabled":
                yield Check("plugin", "warning", f"{record.label} is disabled: {record.reason}")
            case state:
                hint = f"af plugins check {record.distribution}"
                yield Check("plugin", "problem", f"{record.label} is {state}: {record.reason}", hint)
    names = [spec.name for spec, _ in registry.pairs()]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Check("plugin", "problem", f"{name} is claimed by several plugins", "af adapters")
    if not registry.plugins:
        hint = install_hint("agentfield-local")
        yield Check("plugin", "warning", "no plugin is installed, so no call can be made", hint)


def _commands() -> Iterator[Check]:
    for name, entries in plugin_command_entries().items():
        labels = ", ".join(entry.label for entry in entries)
        if name in COMMANDS:
            yield Check("command", "warning", f"the command {name!r} of {labels} is hidden by the built-in one")
        elif len(entries) > 1:
            hint = f"AGENTFIELD_DISABLE_PLUGINS={entries[0].distribution}"
            yield Check("command", "problem", f"the command {name!r} is provided by several plugins: {labels}", hint)
        else:
            yield Check("command", "ok", f"{name}, from {labels}")


def _settings(registry: Registry, env: Mapping[str, str]) -> Iterator[Check]:
    from agentfield_server.settings import Settings, read_settings

    providers = registry.providers()
    known = {f"AGENTFIELD_{name.upper()}" for name in Settings.model_fields} | set(_GENERAL_VARIABLES)
    known |= {name for info in providers for name in (info.key_setting, info.url_setting) if name}
    known |= {name for info in registry.transports() for name in info.settings}
    present = sorted(name for name in known if env.get(name))
    yield Check("settings", "ok", f"set (values are not shown): {', '.join(present) or 'none'}")
    for name in sorted(name for name in env if name.startswith("AGENTFIELD_") and name not in known):
        yield Check("settings", "warning", f"no setting is named {name}.{did_you_mean(name, known)}", f"unset {name}")
    try:
        read_settings()
    except AgentFieldError as error:
        yield Check("settings", "problem", error.message, error.hint or "")
    for info in providers:
        if info.key_setting and info.key_required and not env.get(info.key_setting):
            text = f"{info.title} needs a key where the control plane runs; {info.key_setting} is not set here"
            yield Check("settings", "warning", text, f"{info.key_setting}=... af server")


def _folder(folder: Path) -> Iterator[Check]:
    if not folder.exists():
        yield Check("data", "ok", f"{folder} will be created on first use")
        return
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Check("data", "problem", f"{folder} is not writable", "set AGENTFIELD_HOME to a writable folder")
        return
    private = [folder, *(folder / "nodes").glob("*.pem")]
    exposed = [path for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077] if os.name == "posix" else []
    if not exposed:
        yield Check("data", "ok", f"{folder}, readable by you only")
    for path in exposed:
        mode = "700" if path.is_dir() else "600"
        text = f"{path} is readable by other users (mode {stat.S_IMODE(path.stat().st_mode):o})"
        yield Check("data", "warning" if path.is_dir() else "problem", text, f"chmod {mode} {path}")


def _extra(extra: str, module: str, dist: str, purpose: str) -> Check:
    if find_spec(module) is not None:
        return Check("extra", "ok", f"{dist}[{extra}] is installed: {purpose}")
    return Check("extra", "warning", f"{dist}[{extra}] is not installed: {purpose}", install_hint(dist, extra))


def _event_loop(env: Mapping[str, str]) -> Check:
    try:
        return Check("event loop", "ok", describe(env))
    except AgentFieldError as error:
        return Check("event loop", "problem", error.message, error.hint or "")


def _control_plane(url: str | None) -> Check:
    from agentfield.client import ControlPlaneClient

    async def ask(address: str) -> None:
        async with asyncio.timeout(_ANSWER_TIMEOUT), ControlPlaneClient(address) as client:
            await client.nodes()

    try:
        address = discover_url(url)
        asyncio.run(ask(address))
    except TimeoutError:
        return Check("control plane", "problem", f"{address} does not answer within {_ANSWER_TIMEOUT:g} s", "af server")
    except AgentFieldError as error:
        absent = error.code == "control_plane_unavailable"
        state: Literal["warning", "problem"] = "warning" if absent else "problem"
        return Check("control plane", state, error.message, error.hint or "")
    return Check("control plane", "ok", f"{address} answers")
