"""Loading plugins one by one: whatever one of them does, it becomes a record with a state and the others load."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pluggy

from agentfield.plugins.checks import manifest_problem, vocabulary_problem
from agentfield.plugins.hookchecks import hook_problem, implementations_of
from agentfield.plugins.hooks import Implementation
from agentfield.plugins.hookspecs import PROJECT, PluginHooks
from agentfield.plugins.spec import PLUGIN_API, Manifest

if TYPE_CHECKING:
    from importlib_metadata import EntryPoint

__all__ = [
    "GROUP",
    "PluginRecord",
    "PluginState",
    "check_vocabulary",
    "installed_plugins",
    "is_set",
    "new_manager",
    "read_plugin",
]

GROUP = "agentfield.plugins"
"""The entry-point group."""

PluginState = Literal["ok", "disabled", "broken", "incompatible", "invalid"]
"""`broken`: does not load; `incompatible`: made for another plugin API; `invalid`: its manifest says something impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRecord:
    """One plugin as it was found."""

    name: str
    distribution: str
    version: str = ""
    state: PluginState
    reason: str = ""
    """Why the state is not ok."""
    manifest: Manifest | None = None
    """What it brings; only what an ok plugin brings counts."""
    hooks: tuple[Implementation, ...] = field(default=(), repr=False)
    """What it implements beside its manifest."""
    details: str = ""
    """The traceback of a broken plugin."""

    @property
    def label(self) -> str:
        """The distribution and its version, as messages name a plugin."""
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class _Misfit(Exception):
    state: PluginState
    reason: str


def installed_plugins(manager: pluggy.PluginManager, env: Mapping[str, str]) -> list[PluginRecord]:
    """Load every installed plugin that `env` does not switch off.

    Args:
        manager: Where the plugins are registered; it must know `PluginHooks`.
        env: `AGENTFIELD_DISABLE_PLUGINS` (comma-separated plugin or distribution names) and
            `AGENTFIELD_NO_PLUGIN_AUTOLOAD` are read from it.
    """
    from importlib_metadata import entry_points

    disabled = {name.strip() for name in env.get("AGENTFIELD_DISABLE_PLUGINS", "").split(",") if name.strip()}
    autoload = not is_set(env, "AGENTFIELD_NO_PLUGIN_AUTOLOAD")
    records = []
    found = ((*_whose(entry), entry) for entry in entry_points(group=GROUP))
    for dist, version, entry in sorted(found, key=lambda row: (row[0], row[2].name)):
        base = PluginRecord(name=entry.name, distribution=dist, version=version, state="disabled")
        if not autoload:
            records.append(dataclasses.replace(base, reason="AGENTFIELD_NO_PLUGIN_AUTOLOAD is set"))
        elif {entry.name, dist} & disabled:
            records.append(dataclasses.replace(base, reason="named in AGENTFIELD_DISABLE_PLUGINS"))
        else:
            records.append(read_plugin(manager, entry.load, base))
    return records


def _whose(entry: EntryPoint) -> tuple[str, str]:
    """Return the distribution that an entry point is of, and its version; what is left of one may not say."""
    if entry.dist is None:
        return entry.value, ""
    try:
        about = entry.dist.metadata  # parsed anew each time that it is asked for
        return about["Name"], about["Version"]
    except (KeyError, FileNotFoundError):
        return entry.value, ""


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return how a function is marked; what every module has is not even looked at, which halves the cost of one."""
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)


def new_manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows our hooks; one per registry, never a global one."""
    manager = _Manager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    return manager


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Tell whether a switch in the environment is on."""
    return env.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def read_plugin(manager: pluggy.PluginManager, load: Callable[[], object], base: PluginRecord) -> PluginRecord:
    """Load, register and check one plugin; never raises what the plugin raises.

    Args:
        manager: Where to register it.
        load: Returns the plugin, a module or object.
        base: Its name, distribution and version.
    """
    plugin = None
    try:
        plugin = load()
        manifest = _manifest(manager, plugin, f"{base.distribution}:{base.name}")
        hooks = implementations_of(manager, plugin, name=base.name, distribution=base.distribution)
        return dataclasses.replace(base, state="ok", reason="", manifest=manifest, hooks=hooks)
    except _Misfit as misfit:
        record = dataclasses.replace(base, state=misfit.state, reason=misfit.reason)
    except pluggy.PluginValidationError as error:
        record = dataclasses.replace(base, state="invalid", reason=str(error).replace("\n", " "))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything; the record keeps it
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        record = dataclasses.replace(base, state="broken", reason=reason, details=traceback.format_exc())
    if plugin is not None and manager.is_registered(plugin):
        manager.unregister(plugin)
    return record


def _manifest(manager: pluggy.PluginManager, plugin: object, name: str) -> Manifest:
    _check_api(getattr(plugin, "AGENTFIELD_API", PLUGIN_API))
    manager.register(plugin, name=name)
    if (problem := hook_problem(manager, plugin)) is not None:
        raise _Misfit("invalid", problem)
    mine = [impl for impl in manager.hook.agentfield_manifest.get_hookimpls() if impl.plugin is plugin]
    if not mine:
        raise _Misfit("invalid", "it has no function agentfield_manifest marked with @hookimpl")
    manifest = mine[0].function()
    if not isinstance(manifest, Manifest):
        raise _Misfit("invalid", f"agentfield_manifest returned {type(manifest).__name__}, not Manifest")
    _check_api(manifest.api)
    if (problem := manifest_problem(manifest)) is not None:
        raise _Misfit("invalid", problem)
    return manifest


def _check_api(api: object) -> None:
    match api:
        case (int(major), int(minor)):
            if major != PLUGIN_API[0] or minor > PLUGIN_API[1]:
                have = ".".join(map(str, PLUGIN_API))
                raise _Misfit("incompatible", f"it was made for plugin API {major}.{minor}, this is {have}")
        case _:
            raise _Misfit("invalid", f"its API version is {api!r}, not a pair of whole numbers such as {PLUGIN_API}")


def check_vocabulary(records: Iterable[PluginRecord]) -> tuple[PluginRecord, ...]:
    """Return `records` with those made invalid whose pairs name a provider or a transport that nobody declares."""
    records = tuple(records)
    while True:
        counting = [record.manifest for record in records if record.state == "ok" and record.manifest]
        checked = tuple(_with_vocabulary(record, counting) for record in records)
        if checked == records:
            return checked
        records = checked


def _with_vocabulary(record: PluginRecord, counting: Iterable[Manifest]) -> PluginRecord:
    if record.state != "ok" or record.manifest is None:
        return record
    problem = vocabulary_problem(record.manifest, counting)
    return dataclasses.replace(record, state="invalid", reason=problem) if problem else record
