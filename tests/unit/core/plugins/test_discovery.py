"""Discovery: plugins load one by one, and a bad plugin does not affect the others."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
import threading
import types
import zipfile

import pytest

from agentfield.errors import AgentFieldError
from agentfield.plugins import Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield.plugins.manifest.references import load_attribute
from agentfield.plugins.manifest.spec import Capabilities
from agentfield.plugins.registry import loading

GOOD = """
from agentfield.plugins.hooks.hookspecs import hookimpl
from agentfield.plugins.manifest.spec import Capabilities, Manifest, PairSpec, ProviderSpec

@hookimpl
def agentfield_manifest():
    return Manifest(
        api=(2, 0),
        providers=(ProviderSpec(name="{name}", title="{name}"),),
        pairs=(PairSpec(provider="{name}", transport="{transport}", factory="{factory}", media="bridged",
                        capabilities=Capabilities({capabilities})),),
    )
"""


def good(name: str, transport="websocket", factory="json:dumps", capabilities="") -> str:
    return GOOD.format(name=name, transport=transport, factory=factory, capabilities=capabilities)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with a plugin on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, source: str | None, *, version="1.2.3", entry=None) -> None:
        info = tmp_path / f"zz_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zz-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[agentfield.plugins]\n{entry or name} = zz_{name}_plugin\n")
        if source is not None:
            (tmp_path / f"zz_{name}_plugin.py").write_text(textwrap.dedent(source))
        monkeypatch.delitem(sys.modules, f"zz_{name}_plugin", raising=False)

    return put


def states(registry: Registry) -> dict[str, tuple[str, str]]:
    return {p.distribution: (p.state, p.reason) for p in registry.plugins if p.distribution.startswith("zz-")}


def test_bad_plugins_do_not_affect_good_ones(install):
    """Plugins that raise, exit, are missing or have an invalid manifest become records with a state."""
    install("alpha", good("alpha"))
    install("raises", "raise RuntimeError('boom')")
    install("exits", "raise SystemExit(3)")
    install("gone", None)
    install("future", good("future").replace("api=(2, 0)", "api=(3, 0)"))
    install("minor", good("minor").replace("api=(2, 0)", "api=(2, 9)"))
    install("early", "AGENTFIELD_API = (7, 0)\n" + good("early").replace("api=(2, 0)", "api=(2, 0), new_thing=1"))
    install("mute", "x = 1")
    install(
        "strange",
        "from agentfield.plugins.hooks.hookspecs import hookimpl\n@hookimpl\ndef agentfield_manifest(): return {}",
    )
    install("hooky", "from agentfield.plugins.hooks.hookspecs import hookimpl\n@hookimpl\ndef agentfield_magic(): ...")
    install("typo", good("typo", transport="websockets"))
    install("level", good("level", capabilities="say='sometimes'"))
    install("shape", good("shape", capabilities="floors=['handler']"))
    install("inner", good("inner", capabilities="modalities=frozenset({'smell'})"))
    install("dotted", good("dotted", factory="json.dumps"))
    install("noname", good("no name"))
    install("omega", good("omega"))
    registry = Registry.discover({})
    assert states(registry) == {
        "zz-alpha": ("ok", ""),
        "zz-raises": ("broken", "RuntimeError: boom"),
        "zz-exits": ("broken", "SystemExit: 3"),
        "zz-gone": (
            "broken",
            "its module zz_gone_plugin is not there, only its metadata: reinstall or uninstall zz-gone",
        ),
        "zz-future": ("incompatible", "it was made for plugin API 3.0, this is 2.2"),
        "zz-minor": ("incompatible", "it was made for plugin API 2.9, this is 2.2"),
        "zz-early": ("incompatible", "it was made for plugin API 7.0, this is 2.2"),
        "zz-mute": ("invalid", "it has no function agentfield_manifest marked with @hookimpl"),
        "zz-strange": ("invalid", "agentfield_manifest returned dict, not Manifest"),
        "zz-hooky": ("invalid", states(registry)["zz-hooky"][1]),
        "zz-typo": (
            "invalid",
            "typo/websockets: nothing installed declares transport 'websockets'. Did you mean 'websocket'?",
        ),
        "zz-level": (
            "invalid",
            "manifest.pairs[0].capabilities.say is 'sometimes', not one of 'exact', 'best_effort', 'none'",
        ),
        "zz-shape": ("invalid", "manifest.pairs[0].capabilities.floors is list, not frozenset"),
        "zz-inner": (
            "invalid",
            "manifest.pairs[0].capabilities.modalities[0] is 'smell', not one of 'audio', 'text'",
        ),
        "zz-dotted": ("invalid", "dotted/websocket: 'json.dumps' is not of the form 'module:attribute'"),
        "zz-noname": ("invalid", "'no name' is no name: use lower-case letters, digits, _ and -"),
        "zz-omega": ("ok", ""),
    }
    assert "agentfield_magic" in states(registry)["zz-hooky"][1]
    assert registry.resolve("alpha", "websocket").factory == "json:dumps"
    assert registry.resolve("omega", "websocket").factory == "json:dumps"
    broken = next(p for p in registry.plugins if p.distribution == "zz-raises")
    assert broken.version == "1.2.3"
    assert "RuntimeError: boom" in broken.details


def test_a_hanging_plugin_is_abandoned(install, monkeypatch):
    """A plugin that hangs on import or in its manifest is broken; later plugins load."""
    gate = types.ModuleType("zz_gate")
    gate.opened = threading.Event()
    monkeypatch.setitem(sys.modules, "zz_gate", gate)
    monkeypatch.setattr(loading, "LOAD_TIMEOUT", 0.2)
    wait = "__import__('zz_gate').opened.wait()"
    install("sleepy", wait)
    install("slow", good("slow").replace("    return", f"    {wait}\n    return"))
    install("swift", good("swift"))
    try:
        assert states(Registry.discover({})) == {
            "zz-sleepy": ("broken", "did not finish loading within 0.2 s"),
            "zz-slow": ("broken", "did not finish loading within 0.2 s"),
            "zz-swift": ("ok", ""),
        }
    finally:
        gate.opened.set()


def test_any_exception_of_a_plugin_is_contained(install):
    """KeyboardInterrupt and an error without a readable text become reasons."""
    install("alpha", "raise KeyboardInterrupt")
    install("beta", "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd")
    install("gamma", "class Own(BaseException): ...\nraise Own('no')")
    assert states(Registry.discover({})) == {
        "zz-alpha": ("broken", "KeyboardInterrupt"),
        "zz-beta": ("broken", "Odd: (its text cannot be read)"),
        "zz-gamma": ("broken", "Own: no"),
    }


def test_damaged_metadata_affects_only_its_distribution(install, tmp_path):
    """Unreadable entry points or names become a reason; other distributions are read."""
    install("alpha", good("alpha"))
    install("beta", "")
    (tmp_path / "zz_beta-1.2.3.dist-info" / "entry_points.txt").write_text("[agentfield.plugins]\nno equals sign")
    install("gamma", "")
    (tmp_path / "zz_gamma-1.2.3.dist-info" / "entry_points.txt").write_bytes(b"[agentfield.plugins]\n\xff = a")
    install("delta", "")
    (tmp_path / "zz_delta-1.2.3.dist-info" / "METADATA").unlink()
    install("epsilon", "")
    (tmp_path / "zz_epsilon-1.2.3.dist-info" / "entry_points.txt").write_text("[agentfield.plugins]\ne = a b c")
    (tmp_path / "zz_other-1.dist-info").mkdir()
    (tmp_path / "zz_other-1.dist-info" / "entry_points.txt").write_text("not ours and no good")
    found = states(Registry.discover({}))
    assert found.pop("zz-epsilon")[0] == "broken"
    assert found == {
        "zz-alpha": ("ok", ""),
        "zz-beta": ("broken", "its metadata cannot be read (ValueError): reinstall or uninstall zz-beta"),
        "zz-delta": ("broken", "its metadata cannot be read (MetadataNotFound): reinstall or uninstall zz-delta"),
        "zz-gamma": ("broken", "its metadata cannot be read (UnicodeDecodeError): reinstall or uninstall zz-gamma"),
    }


def test_the_first_copy_on_the_path_is_used(install, tmp_path, monkeypatch):
    """An older copy does not add plugins that the first one no longer has."""
    old = tmp_path / "old"
    for name, entries in (("alpha", "alpha = zz_no_such_module"), ("beta", "beta = zz_no_such_module")):
        info = old / f"zz_{name}-0.9.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zz-{name}\nVersion: 0.9\n")
        (info / "entry_points.txt").write_text(f"[agentfield.plugins]\n{entries}\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(old)])
    install("alpha", good("alpha"))
    install("beta", None)
    (tmp_path / "zz_beta-1.2.3.dist-info" / "entry_points.txt").unlink()
    found = [(p.distribution, p.version, p.state) for p in Registry.discover({}).plugins if p.name in ("alpha", "beta")]
    assert found == [("zz-alpha", "1.2.3", "ok")]


def test_plugins_in_archives_are_found(install, tmp_path, monkeypatch):
    """The path may contain archives, damaged archives and missing folders."""
    install("beta", good("beta"))
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as file:
        info = "zz_alpha-1.2.3.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\r\nName: zz-alpha\r\nVersion: 1.2.3\r\n\r\nWords.")
        file.writestr(f"{info}/entry_points.txt", "[agentfield.plugins]\nalpha = zz_alpha_plugin\n")
        file.writestr("zz_alpha_plugin.py", good("alpha"))
        file.writestr("zz_gamma-1.dist-info/entry_points.txt", b"[agentfield.plugins]\n\xff = a")
        file.writestr("zz_delta-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: zz-delta\nVersion: 1\n")
    monkeypatch.delitem(sys.modules, "zz_alpha_plugin", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "nowhere"), str(archive), *sys.path])
    assert states(Registry.discover({})) == {
        "zz-alpha": ("ok", ""),
        "zz-beta": ("ok", ""),
        "zz-gamma": ("broken", "its metadata cannot be read (UnicodeDecodeError): reinstall or uninstall zz-gamma"),
    }


def test_a_second_distribution_with_the_same_module_is_invalid(install, tmp_path):
    """Its reason names the distribution that has the module."""
    install("alpha", good("alpha"))
    install("beta", "")
    (tmp_path / "zz_beta-1.2.3.dist-info" / "entry_points.txt").write_text(
        "[agentfield.plugins]\nbeta = zz_alpha_plugin\n"
    )
    registry = Registry.discover({})
    assert states(registry) == {
        "zz-alpha": ("ok", ""),
        "zz-beta": ("invalid", "its module is that of zz-alpha too: uninstall one of the two"),
    }
    assert registry.resolve("alpha", "websocket")


def test_a_package_may_discover_plugins_during_its_import(install, tmp_path, monkeypatch):
    """A plugin of a package loads although the import of the package is not complete."""
    package = tmp_path / "zz_whole"
    package.mkdir()
    (package / "__init__.py").write_text("from agentfield.plugins import Registry\nREGISTRY = Registry.discover({})")
    (package / "plugin.py").write_text(good("whole"))
    install("whole", None)
    (tmp_path / "zz_whole-1.2.3.dist-info" / "entry_points.txt").write_text(
        "[agentfield.plugins]\nwhole = zz_whole.plugin\n"
    )
    try:
        assert states(importlib.import_module("zz_whole").REGISTRY) == {"zz-whole": ("ok", "")}
    finally:
        for name in ("zz_whole", "zz_whole.plugin"):
            sys.modules.pop(name, None)


def test_a_pair_may_use_the_provider_of_another_plugin(install):
    """Without that plugin the pair's plugin is invalid, with the reason."""
    install("alpha", good("alpha"))
    lone = good("alpha", transport="webrtc").replace('providers=(ProviderSpec(name="alpha", title="alpha"),),', "")
    install("beta", lone)
    assert states(Registry.discover({}))["zz-beta"] == ("ok", "")
    without = states(Registry.discover({"AGENTFIELD_DISABLE_PLUGINS": "alpha"}))
    assert without["zz-alpha"] == ("disabled", "named in AGENTFIELD_DISABLE_PLUGINS")
    assert without["zz-beta"] == ("invalid", "alpha/webrtc: nothing installed declares provider 'alpha'.")


def test_plugins_can_be_disabled(install):
    """A plugin is not imported if its name, its distribution or all autoloading is disabled."""
    install("alpha", "raise RuntimeError('imported')")
    for value in ("alpha", " x , zz-alpha", "ZZ_Alpha"):
        assert states(Registry.discover({"AGENTFIELD_DISABLE_PLUGINS": value}))["zz-alpha"][0] == "disabled"
    off = Registry.discover({"AGENTFIELD_NO_PLUGIN_AUTOLOAD": "1"})
    assert {p.state for p in off.plugins} == {"disabled"}
    assert off.pairs() == ()
    assert states(Registry.discover({"AGENTFIELD_NO_PLUGIN_AUTOLOAD": "0"}))["zz-alpha"][0] == "broken"


def test_strict_mode_refuses_bad_plugins(install):
    """With AGENTFIELD_PLUGINS_STRICT a plugin that is neither ok nor disabled is an error that names it."""
    install("alpha", "raise RuntimeError('boom')")
    with pytest.raises(AgentFieldError, match=r"zz-alpha 1\.2\.3: broken: RuntimeError: boom") as caught:
        Registry.discover({"AGENTFIELD_PLUGINS_STRICT": "1"})
    assert caught.value.code == "plugins_not_ok"


def test_two_distributions_with_one_plugin_name_are_both_loaded(install):
    """Two distributions may use the same entry-point name."""
    install("alpha", good("alpha"), entry="same")
    install("beta", good("beta"), entry="same")
    assert states(Registry.discover({})) == {"zz-alpha": ("ok", ""), "zz-beta": ("ok", "")}


HOOK = """
@hookimpl
async def agentfield_dag_event(event): ...
"""


def test_only_ok_plugins_have_hooks(install):
    """Hooks of invalid or disabled plugins are not called."""
    install("alpha", good("alpha") + HOOK)
    install("beta", good("beta") + HOOK)
    install("typo", good("typo", transport="websockets") + HOOK)
    install("sync", good("sync") + HOOK.replace("async def", "def"))
    found = Registry.discover({"AGENTFIELD_DISABLE_PLUGINS": "beta"}).implementations("agentfield_dag_event")
    assert [(each.plugin, each.distribution) for each in found] == [("alpha", "zz-alpha")]
    reason = states(Registry.discover({}))["zz-sync"]
    assert reason == ("invalid", "agentfield_dag_event must be written with 'async def'")


def test_other_attributes_of_a_module_are_no_hooks(install):
    """Missing names, objects with arbitrary attributes, and classes are skipped."""
    odd = """
class Odd:
    agentfield_impl = {}
    def __getattr__(self, name): raise RuntimeError(name)

odd = Odd()
Odd.agentfield_impl = hookimpl

def __dir__(): return ["agentfield_manifest", "agentfield_gone", "odd", "Odd"]
"""
    install("alpha", good("alpha") + odd)
    assert states(Registry.discover({})) == {"zz-alpha": ("ok", "")}


class Handmade:
    """A plugin object of the application."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Bring one pair over a transport of core."""
        can = Capabilities(client_leg="watched")
        spec = PairSpec(provider="mine", transport="webrtc", factory="m:f", media="direct", capabilities=can)
        return Manifest(api=(2, 0), providers=(ProviderSpec(name="mine", title="Mine"),), pairs=(spec,))


def test_registries_of_given_plugins_are_independent():
    """`Registry.of` uses the given objects and modules only, and shares no state."""
    module = types.ModuleType("my_package.plugin")
    module.agentfield_manifest = hookimpl(lambda: Manifest(api=(2, 0)))
    first, second = Registry.of([Handmade()]), Registry.of([module])
    assert [spec.name for spec, _ in first.pairs()] == ["mine/webrtc"]
    assert [(p.name, p.distribution, p.state) for p in second.plugins] == [("my_package.plugin", "my-package", "ok")]
    assert second.pairs() == ()
    assert first.provider("mine").title == "Mine"
    assert [t.name for t in second.transports()] == ["audio_turns", "webrtc", "websocket"]
    spec, record = first.pairs()[0]
    assert first.pair_plugin(spec) is record


def test_core_transports_cannot_be_redefined():
    """A plugin that declares the core transport webrtc differently is invalid."""

    class Redefines:
        @hookimpl
        def agentfield_manifest(self) -> Manifest:
            transports = Registry().transports()
            webrtc = next(t for t in transports if t.name == "webrtc")
            return Manifest(
                api=(2, 0), transports=(type(webrtc)(name="webrtc", client="server", media="turns", summary=""),)
            )

    (record,) = Registry.of([Redefines()]).plugins
    assert (record.state, record.reason) == (
        "invalid",
        "it declares the transport 'webrtc' differently from agentfield-core",
    )


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module_xyz:f", "no_such_module_xyz:f could not be imported: ModuleNotFoundError"),
        ("json:no_such", "json:no_such could not be imported: AttributeError"),
    ],
)
def test_a_factory_that_does_not_import_is_a_broken_plugin(reference, message):
    """A reference that does not import raises `PluginBroken` with Python's error."""
    with pytest.raises(AgentFieldError, match=message) as caught:
        load_attribute(reference)
    assert caught.value.code == "plugin_broken"


def test_the_plugin_api_is_light():
    """Importing the plugin API and the registry imports no heavy library."""
    script = "import sys, agentfield.plugins; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"aiohttp", "aiortc", "av", "pydantic", "cryptography", "apsw", "asyncio", "numpy", "websockets"}
    assert not heavy & set(modules)
