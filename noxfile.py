"""Everything that is checked, as one command: ``nox``. Without arguments it is what CI runs."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import time
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
SHORT = tuple(dist.removeprefix("agentfield-") for dist in DISTS)
_SOURCES = ("*.py", "*.md", "*.toml", "*.js", "*.html", "*.yml", ":!tests")
CHROMIUM = Path("/usr/bin/chromium")
# tests start hundreds of processes: containers often forbid the cache without which each compiles everything anew
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "browser", "demo"]


def uv(
    session: nox.Session,
    *args: str,
    groups: tuple[str, ...] = (),
    codes: tuple[int, ...] = (0,),
    log: bool = True,
    **env: str,
) -> None:
    """Run a command in the one environment of the workspace, with these dependency groups.

    Args:
        session: The running session.
        args: The command.
        groups: The dependency groups that it needs.
        codes: The exit codes of success.
        log: Whether the command is printed.
        env: Environment variables beside the inherited ones.
    """
    program = os.environ.get("UV", "uv")
    flags = [flag for group in groups for flag in ("--group", group)]
    session.run(
        program,
        "run",
        *flags,
        *args,
        external=True,
        env={**os.environ, **BYTECODE, **env},
        success_codes=codes,
        log=log,
    )


def _examples(folder: str) -> list[str]:
    """Return this folder of each example plugin."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples" / "plugins").glob(f"*/{folder}"))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import contracts, and that each distribution declares exactly what it imports."""
    groups = ("lint", "test")
    uv(session, "ruff", "check", ".", groups=groups)
    uv(session, "ruff", "format", "--check", ".", groups=groups)
    uv(session, "lint-imports", groups=groups)
    uv(session, "towncrier", "build", "--draft", "--version", "next", groups=groups)
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
    """Run what needs no browser: everything, a distribution's unit tests (``-- server``), or ``-- PATHS`` and options."""
    # a file stays on one worker, for its fixtures; files start in the order of the paths, the longest ones first
    spread = ("--dist", "loadfile", "--no-loadscope-reorder")
    if session.posargs and not set(session.posargs) <= set(SHORT):
        uv(session, "pytest", "-q", *session.posargs, groups=("test",))
    elif session.posargs:
        paths = [f"tests/unit/{name}" for name in session.posargs]
        uv(session, "pytest", "-q", "-n", "2", *spread, "-m", "not speech and not long", *paths, groups=("test",))
    else:
        # the conformance tests of the example plugins need these installed: tests/contract runs them so
        apart = ("--ignore-glob", "examples/plugins/*/tests/test_conformance.py")
        folders = ("packaging", "contract", "faults", "integration", "unit")
        paths = [*(f"tests/{folder}" for folder in folders), *_examples("tests")]
        # calls mostly wait: six files at a time on two cores; what judges speech in real time has the machine to itself
        together = ("-n", "6", *spread, "-m", "not realtime and not long")
        uv(session, "pytest", "-q", *together, *apart, *paths, groups=("test",))
        uv(session, "pytest", "-q", "-m", "realtime and not long", *apart, *paths, groups=("test",))


@nox.session
def contract(session: nox.Session) -> None:
    """Check one pair: its conformance suite and its calls in the contract tests, ``nox -s contract -- openai/websocket``."""
    if len(session.posargs) != 1 or "/" not in session.posargs[0]:
        session.error("name one pair, such as: nox -s contract -- openai/websocket")
    options = ("-q", "-n", "2", "--dist", "loadfile")
    uv(session, "pytest", *options, "tests/contract", groups=("test",), CONTRACT_PAIR=session.posargs[0])


@nox.session
def faults(session: nox.Session) -> None:
    """Break the engine in every known way, for minutes, and print the counts."""
    uv(session, "pytest", "-q", "-s", *(session.posargs or ["tests/faults/engine"]), groups=("test",), FAULT_KILLS="50")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run the property tests of all borders: for a minute, ``-- MINUTES``, or as a printed seed did: ``-- --seed N``."""
    again = session.posargs[:1] == ["--seed"]
    end = time.monotonic() + 60 * float("0" if again else session.posargs[0] if session.posargs else "1")
    while True:
        seed = session.posargs[1] if again else str(secrets.randbelow(2**32))
        session.log(f"repeat this round with: nox -s fuzz -- --seed {seed}")
        options = ("-q", "-n", "2", "-m", "fuzz", "--hypothesis-seed", seed)
        uv(session, "pytest", *options, "tests/unit", "tests/integration", groups=("test",))
        if time.monotonic() >= end:
            break


@nox.session
def soak(session: nox.Session) -> None:
    """Make thousands of calls, for ten minutes or ``-- MINUTES``, and check that no process grows."""
    minutes = session.posargs[0] if session.posargs else "10"
    uv(session, "pytest", "-q", "-s", "tests/soak", groups=("test",), SOAK_MINUTES=minutes)


@nox.session
def long(session: nox.Session) -> None:
    """Run what takes too long for each change: calls with every behaviour variant, faults and a soak at length."""
    options = ("-q", "-n", "3", "--dist", "loadfile")
    every = ("tests/contract", "tests/integration", "tests/unit")
    marks = ("long and not realtime", "long and realtime")
    uv(session, "pytest", *options, "-m", marks[0], *every, groups=("test",), CONTRACT_ALL_VARIANTS="1")
    uv(session, "pytest", "-q", "-m", marks[1], *every, groups=("test",))
    uv(session, "pytest", *options, "-k", "capabilities", "tests/contract", groups=("test",), CONTRACT_ALL_VARIANTS="1")
    interop(session)
    faults(session)
    soak(session)


@nox.session
def mutants(session: nox.Session) -> None:
    """Remove each defence in turn, and see its test fail (`tests/mutants`); a part of `long`."""
    uv(session, "pytest", "-q", "tests/integration/access/test_defences.py", *session.posargs, groups=("test",))


@nox.session
def browser(session: nox.Session) -> None:
    """A real browser makes real calls: all tests, or with pytest's options behind ``--``."""
    if not CHROMIUM.exists():
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            session.error("the browser tests need Chromium: sudo apt-get install --no-install-recommends chromium")
        session.run("apt-get", "update", "-qq", external=True)
        session.run(
            "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", external=True, silent=True
        )
    groups = ("test", "browser")
    if session.posargs:
        uv(session, "pytest", "-q", "tests/browser", *session.posargs, groups=groups)
        return
    # a page in a call has the machine to itself; three of the other tests run at a time
    uv(session, "pytest", "-q", "-n", "3", "-m", "not realtime", "tests/browser", groups=groups)
    uv(session, "pytest", "-q", "-m", "realtime", "tests/browser", groups=groups)


@nox.session
def interop(session: nox.Session) -> None:
    """Verifiers of others, in Node, accept the credentials of a real call; they are installed with npm."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        session.error("these tests need Node 20 or later with npm, and a network to install the verifiers")
    uv(session, "pytest", "-q", "tests/interop", *session.posargs, groups=("test",))


@nox.session
def audit(session: nox.Session) -> None:
    """Search the sources for keys, list the licences, write the bill of materials, and look the dependencies up in advisories."""
    folder, groups = ROOT / "dist" / "audit", ("audit",)
    folder.mkdir(parents=True, exist_ok=True)
    listed = session.run("git", "ls-files", "--", *_SOURCES, external=True, silent=True)
    # by form, not by entropy: digests, DIDs and test vectors are everywhere
    unfit = ("KeywordDetector", "Base64HighEntropyString", "HexHighEntropyString")
    flags = [flag for name in unfit for flag in ("--disable-plugin", name)]
    uv(session, "detect-secrets-hook", "-c", "1", "--no-verify", *flags, *str(listed).split(), groups=groups, log=False)
    licences = ("--from", "mixed", "--format", "markdown", "--output-file", str(folder / "licences.md"))
    uv(session, "pip-licenses", *licences, groups=groups)
    sbom = ("--output-reproducible", "--output-file", str(folder / "sbom.json"))
    uv(session, "cyclonedx-py", "environment", *sbom, groups=groups)
    report = folder / "advisories.json"
    report.unlink(missing_ok=True)
    look_up = ("--local", "--timeout", "10", "--format", "json", "--output", str(report))
    uv(session, "pip-audit", *look_up, groups=groups, codes=(0, 1))
    _print_advisories(session, report)


def _print_advisories(session: nox.Session, report: Path) -> None:
    """Print how many dependencies were looked up, and fail if one has an advisory."""
    found = json.loads(report.read_text())["dependencies"] if report.exists() else []
    checked = [each for each in found if "vulns" in each]
    session.log(f"{len(checked)} dependencies were looked up; not checked: {len(found) - len(checked)}")
    if not checked:
        session.warn("advisories: not checked, no data is reachable from here")
    for each in checked:
        for advisory in each["vulns"]:
            session.warn(f"{each['name']} {each['version']}: {advisory['id']}, fixed in {advisory['fix_versions']}")
    if any(each["vulns"] for each in checked):
        session.error("a dependency has an advisory")


@nox.session
def packaging(session: nox.Session) -> None:
    """Only the tests of packaging: build the wheels and install them one by one into clean environments."""
    uv(session, "pytest", "-q", "-n", "2", "--dist", "loadfile", "tests/packaging", *session.posargs, groups=("test",))


@nox.session
def demo(session: nox.Session) -> None:
    """One real call, from nothing."""
    uv(session, "af", "demo", "--once")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure and print rows with their floors: ``nox -s bench [-- NAME] [--quick] [--json FILE]``."""
    session.log(f"{platform.machine()}, {os.cpu_count()} cores")
    uv(session, "python", "-m", "benchmarks", *session.posargs, groups=("test",))
