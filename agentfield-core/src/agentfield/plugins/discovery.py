"""Loading plugins one by one: whatever one of them does, it becomes a record with a state and the others load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Literal

import pluggy

from agentfield.installed import PLUGINS as GROUP
from agentfield.installed import Entry, canonical, installed_entries
from agentfield.plugins.checks import Words, manifest_problem, vocabulary_problem, words_of
from agentfield.plugins.hookchecks import Marked, hook_problem, implementations_of, marked_functions
from agentfield.plugins.hooks import Implementation
from agentfield.plugins.hookspecs import PROJECT, PluginHooks
from agentfield.plugins.loading import Failed, Watch, run_each
from agentfield.plugins.spec import PLUGIN_API, Manifest

__all__ = [
    "GROUP",
    "PluginRecord",
    "PluginState",
    "check_vocabulary",
    "installed_plugins",
    "is_set",
    "new_manager",
    "read_plugins",
]

PluginState = Literal["ok", "disabled", "broken", "incompatible", "invalid"]
"""`broken`: does not load; `incompatible`: made for another plugin API; `invalid`: its manifest says something impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRecord:
    """One plugin as it was found."""

    name: str
    distribution: str
    version: str = ""
    module: str = ""
    """The module of its manifest."""
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
    disabled = {
        canonical(name.strip()) for name in env.get("AGENTFIELD_DISABLE_PLUGINS", "").split(",") if name.strip()
    }
    autoload = not is_set(env, "AGENTFIELD_NO_PLUGIN_AUTOLOAD")
    entries = installed_entries(GROUP)
    records = [_switched_off(_found(entry), disabled, autoload=autoload) for entry in entries]
    wanted = [(record, entry.load) for record, entry in zip(records, entries, strict=True) if record.state == "ok"]
    loaded = iter(read_plugins(manager, wanted))
    return [next(loaded) if record.state == "ok" else record for record in records]


def _found(entry: Entry) -> PluginRecord:
    return PluginRecord(
        name=entry.name,
        distribution=entry.distribution,
        version=entry.version,
        module=entry.module,
        state="broken" if entry.problem else "ok",
        reason=entry.problem,
    )


def _switched_off(base: PluginRecord, disabled: set[str], *, autoload: bool) -> PluginRecord:
    if not autoload:
        return dataclasses.replace(base, state="disabled", reason="AGENTFIELD_NO_PLUGIN_AUTOLOAD is set")
    if {canonical(base.name), canonical(base.distribution)} & disabled:
        return dataclasses.replace(base, state="disabled", reason="named in AGENTFIELD_DISABLE_PLUGINS")
    return base


_HOOKABLE = (FunctionType, MethodType, staticmethod, classmethod)
"""What pluggy takes for the function of a hook."""


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return how a function is marked.

        What every module has, and what a module imports that is no function, is not even looked at: pluggy looks at each
        name the long way round.
        """
        if name.startswith("__") or (type(plugin) is ModuleType and not isinstance(vars(plugin).get(name), _HOOKABLE)):
            return None
        return super().parse_hookimpl_opts(plugin, name)

    def parse_hookspec_opts(self, module_or_class: ModuleType | type, name: str) -> pluggy.HookspecOpts | None:
        """Return how a hook is marked."""
        return None if name.startswith("__") else super().parse_hookspec_opts(module_or_class, name)


def new_manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows our hooks; one per registry, never a global one."""
    manager = _Manager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    return manager


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Tell whether a switch in the environment is on."""
    return env.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def read_plugins(
    manager: pluggy.PluginManager, plugins: Sequence[tuple[PluginRecord, Callable[[], object]]]
) -> list[PluginRecord]:
    """Load, register and check plugins one by one; never raises what a plugin raises.

    Args:
        manager: Where to register them.
        plugins: The name, distribution and version of each, and what returns it: a module or object.
    """
    outcomes = run_each([(base.module, partial(_read, manager, load, base)) for base, load in plugins])
    return [
        dataclasses.replace(base, state="broken", reason=_reason(outcome, base), details=outcome.details)
        if isinstance(outcome, Failed)
        else outcome
        for (base, _), outcome in zip(plugins, outcomes, strict=True)
    ]


def _read(manager: pluggy.PluginManager, load: Callable[[], object], base: PluginRecord, watch: Watch) -> PluginRecord:
    plugin = load()
    try:
        marked = _registered(manager, plugin, base, watch)
        manifest = _manifest(marked, watch)
        hooks = implementations_of(marked, name=base.name, distribution=base.distribution)
        return dataclasses.replace(base, state="ok", reason="", manifest=manifest, hooks=hooks)
    except _Misfit as misfit:
        record = dataclasses.replace(base, state=misfit.state, reason=misfit.reason)
    except pluggy.PluginValidationError as error:
        record = dataclasses.replace(base, state="invalid", reason=str(error).replace("\n", " "))
    except BaseException:
        _forget(manager, plugin, base)
        raise
    _forget(manager, plugin, base)
    return record


def _forget(manager: pluggy.PluginManager, plugin: object, base: PluginRecord) -> None:
    if manager.get_name(plugin) == _key(base):
        manager.unregister(plugin)


def _key(base: PluginRecord) -> str:
    return f"{base.distribution}:{base.name}"


def _reason(failed: Failed, base: PluginRecord) -> str:
    match failed.error:
        case ModuleNotFoundError(name=str(name)) if f"{base.module}.".startswith(f"{name}."):
            return (
                f"its module {base.module} is not there, only its metadata: reinstall or uninstall {base.distribution}"
            )
    return failed.reason


def _registered(manager: pluggy.PluginManager, plugin: object, base: PluginRecord, watch: Watch) -> list[Marked]:
    _check_api(getattr(plugin, "AGENTFIELD_API", PLUGIN_API))
    watch.check()
    if (other := manager.get_name(plugin)) is not None:
        raise _Misfit("invalid", f"its module is that of {other.partition(':')[0]} too: uninstall one of the two")
    manager.register(plugin, name=_key(base))
    return marked_functions(manager, plugin)


def _manifest(marked: Sequence[Marked], watch: Watch) -> Manifest:
    if (problem := hook_problem(marked)) is not None:
        raise _Misfit("invalid", problem)
    function = next((impl.function for name, impl in marked if name == "agentfield_manifest"), None)
    if function is None:
        raise _Misfit("invalid", "it has no function agentfield_manifest marked with @hookimpl")
    manifest = function()
    watch.check()
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
        words = words_of(record.manifest for record in records if record.state == "ok" and record.manifest)
        checked = tuple(_with_vocabulary(record, words) for record in records)
        if checked == records:
            return checked
        records = checked


def _with_vocabulary(record: PluginRecord, words: Words) -> PluginRecord:
    if record.state != "ok" or record.manifest is None:
        return record
    problem = vocabulary_problem(record.manifest, words)
    return dataclasses.replace(record, state="invalid", reason=problem) if problem else record
