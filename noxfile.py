"""Everything that is checked, as one command: ``nox``. Without arguments it is what CI runs."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DISTS = (
    "agentfield-core",
    "agentfield-server",
    "agentfield-openai",
    "agentfield-openrouter",
    "agentfield-local",
    "agentfield-cli",
)
MODULES = {
    **{dist: dist.replace("-", "_") for dist in DISTS},
    "agentfield-core": "agentfield",
    "pydantic-core": "pydantic_core",
}
CHROMIUM = Path("/usr/bin/chromium")

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "browser", "packaging", "demo"]


def uv(session: nox.Session, *args: str, groups: tuple[str, ...] = (), **env: str) -> None:
    """Run something in the one environment of the workspace, with these dependency groups."""
    program = os.environ.get("UV", "uv")
    flags = [flag for group in groups for flag in ("--group", group)]
    session.run(program, "run", *flags, *args, external=True, env={**os.environ, **env})


def _examples(folder: str) -> list[str]:
    """Return a folder of each plugin that is written as a stranger would."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples" / "plugins").glob(f"*/{folder}"))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import contracts, and that each distribution declares exactly what it imports."""
    groups = ("lint", "test")
    uv(session, "ruff", "check", ".", groups=groups)
    uv(session, "ruff", "format", "--check", ".", groups=groups)
    uv(session, "lint-imports", groups=groups)
    names = ",".join(f"{dist}={module}" for dist, module in MODULES.items())
    for dist in DISTS:
        config = f"{dist}/pyproject.toml"
        uv(session, "deptry", f"{dist}/src", "--config", config, "--package-module-name-map", names, groups=groups)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over every distribution and the public API as users write it."""
    sources = [*(f"{dist}/src" for dist in DISTS), *_examples("src")]
    uv(session, "mypy", *sources, "tests/typing", "noxfile.py", groups=("types", "test", "browser", "nox"))


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no browser: units, contracts, real processes on loopback."""
    paths = session.posargs or [
        "tests/unit",
        "tests/contract",
        "tests/integration",
        "tests/faults",
        *_examples("tests"),
    ]
    present = [path for path in paths if (ROOT / path.split("::")[0]).exists()]
    if session.posargs:
        uv(session, "pytest", "-q", *present, groups=("test",))
        return
    # these need their plugins installed: tests/contract runs them so
    apart = ("--ignore-glob", "examples/plugins/*/tests/test_conformance.py")
    # calls mostly wait: three files at a time on two cores; speech that is judged in real time has the machine to itself
    spread = ("-n", "3", "--dist", "loadgroup")
    uv(session, "pytest", "-q", "-m", "not speech", *spread, *apart, *present, groups=("test",))
    uv(session, "pytest", "-q", "-m", "speech", *apart, *present, groups=("test",))


@nox.session
def faults(session: nox.Session) -> None:
    """Break the engine in every way that we know, for minutes, and print what was counted: ``nox -s faults``."""
    paths = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_engine_*.py"))
    uv(session, "pytest", "-q", "-s", *(session.posargs or paths), groups=("test",), FAULT_KILLS="50")


@nox.session
def browser(session: nox.Session) -> None:
    """A real browser makes real calls."""
    if not CHROMIUM.exists():
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            session.error("the browser tests need Chromium: sudo apt-get install --no-install-recommends chromium")
        session.run("apt-get", "update", "-qq", external=True)
        session.run(
            "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", external=True, silent=True
        )
    uv(session, "pytest", "-q", "tests/browser", *session.posargs, groups=("test", "browser"))


@nox.session
def packaging(session: nox.Session) -> None:
    """Build the wheels and install them one by one into clean environments."""
    uv(session, "pytest", "-q", "-n", "2", "--dist", "loadfile", "tests/packaging", *session.posargs, groups=("test",))


@nox.session
def demo(session: nox.Session) -> None:
    """One real call, from nothing."""
    uv(session, "af", "demo", "--once")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure and print rows with their floors: ``nox -s bench [-- NAME] [-- --json FILE]``."""
    session.log(f"{platform.machine()}, {os.cpu_count()} cores")
    uv(session, "python", "-m", "benchmarks", *session.posargs, groups=("test",))
