"""Other routes of the local server: exact speech, SIP verbs, transcription sessions, TLS and UDP ports."""

from __future__ import annotations

import datetime as dt
import io
import ipaddress
import ssl
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai import AsyncOpenAI

from agentfield.errors import InvalidInput
from agentfield_local.brain import ObedientBrain
from agentfield_local.faults.behaviour import Behaviour, DisconnectFaults
from agentfield_local.http.tls import TlsOptions
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from agentfield_local.webrtc.options import MediaOptions, parse_ports
from support.audio import silence, tone
from support.providers.local_server import Caller, b64, check_event

TEXT = "Your refund was approved."


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    async with (
        LocalServer(synthetic_engines(["where is my order"]), ObedientBrain(), key="sk-test", **options) as server,
        AsyncOpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0) as client,
    ):
        yield server, client


async def speech(client: AsyncOpenAI, **fields: Any) -> openai.HttpxBinaryResponseContent:
    return await client.audio.speech.create(
        **{"model": "tts", "voice": "alloy", "input": TEXT, "response_format": "pcm", **fields}
    )


async def test_a_text_is_spoken_exactly() -> None:
    """The answer is 24 kHz s16le mono of the length of the text, as PCM or as a WAV stream."""
    async with serving() as (_, client):
        answer = await speech(client)
        assert answer.response.headers["content-type"] == "audio/pcm"
        seconds = len(answer.content) / 48_000
        assert seconds == pytest.approx((len(TEXT) * 50 + 40) / 1000, abs=0.02)
        assert np.abs(np.frombuffer(answer.content, "<i2")).max() > 5000
        recording = await speech(client, response_format="wav")
        assert recording.content[44:] == answer.content
        with wave.open(io.BytesIO(recording.content)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        slow, fast = [len((await speech(client, speed=speed)).content) / 48_000 for speed in (0.5, 2.0)]
        assert slow == pytest.approx(seconds * 2, abs=0.1)
        assert fast == pytest.approx(seconds / 2, abs=0.1)
        assert (await speech(client, input="...")).content == b""


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"voice": "darth"}, "invalid_value", "voice"),
        ({"input": ""}, "invalid_value", "input"),
        ({"input": "a" * 4097}, "invalid_value", "input"),
        ({"response_format": "midi"}, "invalid_value", "response_format"),
        ({"stream_format": "midi"}, "invalid_value", "stream_format"),
        ({"speed": 5.0}, "invalid_value", "speed"),
        ({"extra_body": {"pitch": 2}}, "unknown_parameter", "pitch"),
        ({"extra_body": {"model": 7}}, "invalid_value", "model"),
    ],
)
async def test_invalid_speech_requests_are_refused_with_the_field(
    fields: dict[str, Any], code: str, param: str
) -> None:
    """The answer is HTTP 400 with the field, before any audio."""
    async with serving() as (_, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await speech(client, **fields)
        assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_failing_voice_is_a_server_error_and_a_stream_can_be_aborted() -> None:
    """An engine that fails at once is a 500 in the protocol's shape; the fault aborts an answer that has begun."""
    async with serving(behaviour=Behaviour(disconnects=DisconnectFaults(speech=True))) as (server, client):
        with pytest.raises(openai.APIConnectionError):
            await speech(client, input="One clause, and another one.")

        def fail(text: str) -> Any:
            raise RuntimeError(text)

        server._pool.engines.tts.say = fail  # type: ignore[method-assign]
        with pytest.raises(openai.InternalServerError) as failed:
            await speech(client)
        assert failed.value.code == "server_error"
        assert TEXT not in str(failed.value)


async def test_sip_verbs_are_refused_for_webrtc_calls() -> None:
    """Accept, reject and refer check the call and their body, then answer that the call is not a SIP call."""
    async with serving() as (_, client):
        caller = Caller()
        try:
            answer = await client.realtime.calls.with_raw_response.create(sdp=await caller.offer())
            call_id = answer.headers["location"].rpartition("/")[2]
            calls = client.realtime.calls
            for verb in (
                lambda call: calls.accept(call, type="realtime", instructions="Be kind."),
                lambda call: calls.reject(call, status_code=486),
                calls.reject,
                lambda call: calls.refer(call, target_uri="tel:+14155550123"),
            ):
                with pytest.raises(openai.BadRequestError) as refused:
                    await verb(call_id)
                assert (refused.value.code, refused.value.type) == ("unsupported_call_type", "invalid_request_error")
                with pytest.raises(openai.NotFoundError) as unknown:
                    await verb("rtc_none")
                assert unknown.value.code == "call_id_not_found"
            for wrong, param in (
                (calls.reject(call_id, status_code=200), "status_code"),
                (calls.refer(call_id, target_uri=""), "target_uri"),
                (calls.accept(call_id, type="realtime", extra_body={"nonsense": 1}), "nonsense"),
            ):
                with pytest.raises(openai.BadRequestError) as refused:
                    await wrong
                assert refused.value.param == param
        finally:
            await caller.close()


async def test_a_transcription_session_by_query() -> None:
    """`?intent=transcription` opens a session with turns and transcripts in the official types, and no responses."""
    async with serving() as (server, _), aiohttp.ClientSession(headers={"Authorization": "Bearer sk-test"}) as http:
        async with http.ws_connect(f"{server.base_url}/realtime?intent=transcription") as socket:
            audio = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": "semantic_vad"}}}
            await socket.send_json({"type": "session.update", "session": {"type": "transcription", "audio": audio}})
            sound = b64(tone(400, 24_000) + silence(1200, 24_000))
            await socket.send_json({"type": "input_audio_buffer.append", "audio": sound})
            kinds, event = [], {"type": ""}
            while not event["type"].endswith("transcription.completed"):
                event = await socket.receive_json(timeout=10)
                check_event(event)
                kinds.append(event["type"])
            assert event["transcript"] == "where is my order"
            assert kinds[:2] == ["session.created", "session.updated"]
            await socket.send_json({"type": "response.create"})
            assert (await socket.receive_json(timeout=10))["error"]["param"] == "type"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{server.base_url}/realtime?intent=conversation")
        assert refused.value.status == 400


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - dt.timedelta(days=1))
    signed = builder.not_valid_after(now + dt.timedelta(days=1)).add_extension(names, critical=False)
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def test_a_second_port_with_tls(tmp_path: Path) -> None:
    """HTTP and WebSocket work over TLS in addition to the plain port, with the configured certificate."""
    cert_file, key_file = certificate(tmp_path)
    async with serving(tls=TlsOptions(cert_file, key_file)) as (server, client), aiohttp.ClientSession() as http:
        context = ssl.create_default_context(cafile=str(cert_file))
        headers = {"Authorization": "Bearer sk-test"}
        async with http.ws_connect(f"{server.tls_url}/v1/realtime?model=m", ssl=context, headers=headers) as socket:
            assert socket._response.url.scheme == "https"
            assert (await socket.receive_json(timeout=10))["type"] == "session.created"
        async with client.realtime.connect(model="m") as connection:
            assert (await connection.recv()).type == "session.created"
        assert server.tls_url != server.url


async def test_an_invalid_certificate_is_refused(tmp_path: Path) -> None:
    """The server does not start, and the error names the files."""
    broken = tmp_path / "cert.pem"
    broken.write_text("hello")
    server = LocalServer(synthetic_engines(), ObedientBrain(), tls=TlsOptions(broken, tmp_path / "none.pem"))
    with pytest.raises(InvalidInput, match="cannot be used"):
        await server.start()


async def test_udp_port_range_and_advertised_address() -> None:
    """Each call takes one port of the range, the answer has the advertised address, and a full range is a 503."""
    ports = (52_310, 52_311)
    async with serving(media=MediaOptions(udp_ports=ports, advertise="203.0.113.7")) as (_, client):
        callers = [Caller() for _ in range(3)]
        try:
            used = []
            for caller in callers[:2]:
                answer = (await client.realtime.calls.create(sdp=await caller.offer())).text
                lines = [line.split() for line in answer.splitlines() if line.startswith("a=candidate:")]
                assert {line[4] for line in lines} == {"203.0.113.7"}
                assert {line for line in answer.splitlines() if line.startswith("c=")} == {"c=IN IP4 203.0.113.7"}
                used += sorted({int(line[5]) for line in lines})
            assert sorted(used) == list(ports)
            with pytest.raises(openai.InternalServerError) as full:
                await client.realtime.calls.create(sdp=await callers[2].offer())
            assert (full.value.status_code, full.value.code) == (503, "overloaded")
        finally:
            for caller in callers:
                await caller.close()


async def test_a_call_connects_on_the_ports_of_the_range() -> None:
    """A caller connects and speaks over a port of the range."""
    async with serving(media=MediaOptions(udp_ports=(52_320, 52_329), jitter_prefetch=4)) as (_, client):
        caller = Caller()
        try:
            await caller.accept((await client.realtime.calls.create(sdp=await caller.offer())).text)
            caller.speak(tone(400, 48_000))
            await caller.wait("response.done")
            await caller.hears_sound()
        finally:
            await caller.close()


@pytest.mark.parametrize(
    "options",
    [
        lambda: parse_ports("50000"),
        lambda: parse_ports("a-b"),
        lambda: MediaOptions(udp_ports=(50_000, 49_000)),
        lambda: MediaOptions(udp_ports=(80, 90)),
        lambda: MediaOptions(advertise="example.org"),
        lambda: MediaOptions(connect_seconds=0),
        lambda: MediaOptions(jitter_prefetch=0),
    ],
)
def test_invalid_media_options_are_refused(options: Any) -> None:
    """Each error has the field and a hint."""
    with pytest.raises(InvalidInput) as refused:
        options()
    assert refused.value.hint
