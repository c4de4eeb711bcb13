"""Discovery of installed plugins: each becomes a record with a state, and a bad plugin does not affect the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType

import pluggy

from agentfield.entry_points import PLUGIN_GROUP, InstalledEntryPoint, installed_entry_points, normalized_name
from agentfield.plugins.hooks.hookspecs import PROJECT_NAME, PluginHooks
from agentfield.plugins.hooks.implementations import (
    MarkedHook,
    hook_problem,
    implementations_of,
    marked_functions,
)
from agentfield.plugins.manifest.checks import DeclaredNames, declared_names, manifest_problem, undeclared_name_problem
from agentfield.plugins.manifest.spec import PLUGIN_API, Manifest
from agentfield.plugins.registry.loading import LoadAttempt, LoadFailure, run_each
from agentfield.plugins.registry.records import PluginRecord, PluginState

__all__ = [
    "check_declared_names",
    "installed_plugins",
    "is_set",
    "new_manager",
    "read_plugins",
]


@dataclass(frozen=True, slots=True)
class _Rejected(Exception):
    state: PluginState
    reason: str


def installed_plugins(manager: pluggy.PluginManager, env: Mapping[str, str]) -> list[PluginRecord]:
    """Load each installed plugin that `env` does not disable.

    Args:
        manager: Registers the plugins; it must have the specifications of `PluginHooks`.
        env: `AGENTFIELD_DISABLE_PLUGINS` (comma-separated plugin or distribution names) and
            `AGENTFIELD_NO_PLUGIN_AUTOLOAD` are read from it.
    """
    disabled = {
        normalized_name(name.strip()) for name in env.get("AGENTFIELD_DISABLE_PLUGINS", "").split(",") if name.strip()
    }
    autoload = not is_set(env, "AGENTFIELD_NO_PLUGIN_AUTOLOAD")
    entries = installed_entry_points(PLUGIN_GROUP)
    records = [_disabled(_record(entry), disabled, autoload=autoload) for entry in entries]
    wanted = [(record, entry.load) for record, entry in zip(records, entries, strict=True) if record.state == "ok"]
    loaded = iter(read_plugins(manager, wanted))
    return [next(loaded) if record.state == "ok" else record for record in records]


def _record(entry: InstalledEntryPoint) -> PluginRecord:
    return PluginRecord(
        name=entry.name,
        distribution=entry.distribution,
        version=entry.version,
        module=entry.module,
        state="broken" if entry.problem else "ok",
        reason=entry.problem,
    )


def _disabled(base: PluginRecord, disabled: set[str], *, autoload: bool) -> PluginRecord:
    if not autoload:
        return dataclasses.replace(base, state="disabled", reason="AGENTFIELD_NO_PLUGIN_AUTOLOAD is set")
    if {normalized_name(base.name), normalized_name(base.distribution)} & disabled:
        return dataclasses.replace(base, state="disabled", reason="named in AGENTFIELD_DISABLE_PLUGINS")
    return base


_HOOKABLE = (FunctionType, MethodType, staticmethod, classmethod)
"""Types that pluggy accepts as hook implementations."""


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return the options of a hook implementation.

        Names with two underscores, and attributes of modules that are not functions, are skipped: pluggy's own inspection of
        each name is slow.
        """
        if name.startswith("__") or (type(plugin) is ModuleType and not isinstance(vars(plugin).get(name), _HOOKABLE)):
            return None
        return super().parse_hookimpl_opts(plugin, name)

    def parse_hookspec_opts(self, module_or_class: ModuleType | type, name: str) -> pluggy.HookspecOpts | None:
        """Return the options of a hook specification."""
        return None if name.startswith("__") else super().parse_hookspec_opts(module_or_class, name)


def new_manager() -> pluggy.PluginManager:
    """Return a plugin manager with the hook specifications; one per registry, never global."""
    manager = _Manager(PROJECT_NAME)
    manager.add_hookspecs(PluginHooks)
    return manager


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Return whether a boolean environment variable is set."""
    return env.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def read_plugins(
    manager: pluggy.PluginManager, plugins: Sequence[tuple[PluginRecord, Callable[[], object]]]
) -> list[PluginRecord]:
    """Load, register and check plugins; never raises an exception of a plugin.

    Args:
        manager: Registers the plugins.
        plugins: For each a record with its name, distribution and version, and a function that returns its module or object.
    """
    outcomes = run_each([(base.module, partial(_read, manager, load, base)) for base, load in plugins])
    return [
        dataclasses.replace(base, state="broken", reason=_reason(outcome, base), details=outcome.details)
        if isinstance(outcome, LoadFailure)
        else outcome
        for (base, _), outcome in zip(plugins, outcomes, strict=True)
    ]


def _read(
    manager: pluggy.PluginManager, load: Callable[[], object], base: PluginRecord, attempt: LoadAttempt
) -> PluginRecord:
    plugin = load()
    try:
        marked = _registered(manager, plugin, base, attempt)
        manifest = _manifest(marked, attempt)
        hooks = implementations_of(marked, name=base.name, distribution=base.distribution)
        return dataclasses.replace(base, state="ok", reason="", manifest=manifest, hooks=hooks)
    except _Rejected as rejected:
        record = dataclasses.replace(base, state=rejected.state, reason=rejected.reason)
    except pluggy.PluginValidationError as error:
        record = dataclasses.replace(base, state="invalid", reason=str(error).replace("\n", " "))
    except BaseException:
        _unregister(manager, plugin, base)
        raise
    _unregister(manager, plugin, base)
    return record


def _unregister(manager: pluggy.PluginManager, plugin: object, base: PluginRecord) -> None:
    if manager.get_name(plugin) == _key(base):
        manager.unregister(plugin)


def _key(base: PluginRecord) -> str:
    return f"{base.distribution}:{base.name}"


def _reason(failed: LoadFailure, base: PluginRecord) -> str:
    match failed.error:
        case ModuleNotFoundError(name=str(name)) if f"{base.module}.".startswith(f"{name}."):
            return (
                f"its module {base.module} is not there, only its metadata: reinstall or uninstall {base.distribution}"
            )
    return failed.reason


def _registered(
    manager: pluggy.PluginManager, plugin: object, base: PluginRecord, attempt: LoadAttempt
) -> list[MarkedHook]:
    _check_api(getattr(plugin, "AGENTFIELD_API", PLUGIN_API))
    attempt.check()
    if (other := manager.get_name(plugin)) is not None:
        raise _Rejected("invalid", f"its module is that of {other.partition(':')[0]} too: uninstall one of the two")
    manager.register(plugin, name=_key(base))
    return marked_functions(manager, plugin)


def _manifest(marked: Sequence[MarkedHook], attempt: LoadAttempt) -> Manifest:
    if (problem := hook_problem(marked)) is not None:
        raise _Rejected("invalid", problem)
    function = next((impl.function for name, impl in marked if name == "agentfield_manifest"), None)
    if function is None:
        raise _Rejected("invalid", "it has no function agentfield_manifest marked with @hookimpl")
    manifest = function()
    attempt.check()
    if not isinstance(manifest, Manifest):
        raise _Rejected("invalid", f"agentfield_manifest returned {type(manifest).__name__}, not Manifest")
    _check_api(manifest.api)
    if (problem := manifest_problem(manifest)) is not None:
        raise _Rejected("invalid", problem)
    return manifest


def _check_api(api: object) -> None:
    match api:
        case (int(major), int(minor)):
            if major != PLUGIN_API[0] or minor > PLUGIN_API[1]:
                have = ".".join(map(str, PLUGIN_API))
                raise _Rejected("incompatible", f"it was made for plugin API {major}.{minor}, this is {have}")
        case _:
            raise _Rejected("invalid", f"its API version is {api!r}, not a pair of whole numbers such as {PLUGIN_API}")


def check_declared_names(records: Iterable[PluginRecord]) -> tuple[PluginRecord, ...]:
    """Return `records`; those with a pair of an undeclared provider or transport become invalid.

    Repeated until nothing changes: an invalid plugin no longer declares names for others.
    """
    records = tuple(records)
    while True:
        declared = declared_names(record.manifest for record in records if record.state == "ok" and record.manifest)
        checked = tuple(_with_declared_names(record, declared) for record in records)
        if checked == records:
            return checked
        records = checked


def _with_declared_names(record: PluginRecord, declared: DeclaredNames) -> PluginRecord:
    if record.state != "ok" or record.manifest is None:
        return record
    problem = undeclared_name_problem(record.manifest, declared)
    return dataclasses.replace(record, state="invalid", reason=problem) if problem else record
