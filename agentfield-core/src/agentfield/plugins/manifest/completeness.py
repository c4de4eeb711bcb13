"""Completeness of a manifest: what is missing, or contradicts itself, although each value by itself is allowed.

The conformance kit and ``af plugins check`` refuse it with the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS
from agentfield.plugins.manifest.spec import (
    Capabilities,
    Catalog,
    Manifest,
    PairSpec,
    ProviderSpec,
    RouteSpec,
    TransportSpec,
)

__all__ = ["manifest_gaps", "pair_gaps", "provider_gaps", "transport_gaps", "voices_of"]

_ADDRESS = re.compile(r"(?:https?|wss?)://[^\s/]+.*")
_SETTING = re.compile(r"[A-Z][A-Z0-9_]*")
_ALWAYS = ("duration", "idle")


def voices_of(provider: ProviderSpec, model: str) -> Catalog:
    """Return the voices of a model."""
    own = next((spec.voices for spec in provider.model_specs if spec.model == model), None)
    return own or provider.voices


def manifest_gaps(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong in a manifest beside its providers, transports and pairs."""
    for name in manifest.settings:
        if not _SETTING.fullmatch(name):
            yield f"settings has {name!r}, no name of an environment variable such as ACME_SECRET"


def provider_gaps(provider: ProviderSpec) -> Iterator[str]:
    """Yield what is missing or contradictory in a provider."""
    if not provider.title.strip():
        yield "title is empty: errors name the provider by it"
    if provider.key_required and not provider.key_setting:
        yield "key_required is set, and key_setting names no setting: name it, or set key_required=False"
    if not provider.url_setting:
        yield "url_setting is missing: users behind a proxy or in a region, and the conformance kit, need another address"
    if provider.default_url and not _ADDRESS.fullmatch(provider.default_url):
        yield f"default_url is {provider.default_url!r}, no http(s) or ws(s) address"
    if not (provider.models.default or provider.models.known):
        yield "models names neither a default nor a known model, so a session that names none cannot start"
    catalogs = {"models": provider.models, "voices": provider.voices}
    catalogs |= {f"voices of the model {spec.model}": spec.voices for spec in provider.model_specs if spec.voices}
    for name, catalog in catalogs.items():
        yield from _catalog_gaps(name, catalog)
    for spec in provider.model_specs:
        if provider.models.closed and spec.model not in provider.models.known:
            yield f"model_specs names {spec.model!r}, which the closed catalog of models lacks"
        if spec.modalities is not None and not spec.modalities:
            yield f"model_specs: {spec.model} has no modalities, so it could not answer"
    yield from _price_gaps(provider)
    if provider.concurrency is not None and provider.concurrency < 1:
        yield f"concurrency is {provider.concurrency}: no session could ever start; None is no limit"


def _catalog_gaps(name: str, catalog: Catalog) -> Iterator[str]:
    if len(set(catalog.known)) != len(catalog.known) or not all(each.strip() for each in catalog.known):
        yield f"{name} has an empty or repeated name: {', '.join(map(repr, catalog.known))}"
    if catalog.closed and not catalog.known:
        yield f"{name} is closed and knows no name, so every name would be refused"
    if catalog.closed and catalog.default is not None and catalog.default not in catalog.known:
        yield f"{name} is closed, and its default {catalog.default!r} is not among the known names"


def _price_gaps(provider: ProviderSpec) -> Iterator[str]:
    names = [price.model for price in provider.prices]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"prices has the model {name} twice"
    for price in provider.prices:
        if provider.models.closed and price.model not in provider.models.known:
            yield f"prices names the model {price.model!r}, which the closed catalog of models lacks"
        values = {name: getattr(price, name) for name in price.__slots__ if name != "model"}
        for name, value in values.items():
            if value is not None and value < 0:
                yield f"prices: {name} of {price.model} is negative"
        if not any(value is not None for value in values.values()):
            yield f"prices: {price.model} has no price at all; leave it out"


def pair_gaps(pair: PairSpec, provider: ProviderSpec) -> Iterator[str]:
    """Yield what is missing or contradictory in a pair."""
    can = pair.capabilities
    if not can.floors:
        yield "floors is empty: no turn could be answered"
    if not can.modalities:
        yield "modalities is empty: the agent could not answer"
    if not can.turn_detection:
        yield "turn_detection is empty: no turn would ever end"
    if can.caller_transcript != "none" and can.transcription == "model" and not can.default_transcription:
        yield (
            "caller_transcript is declared, so default_transcription must name a model, or transcription must be 'own': "
            "the provider transcribes by itself"
        )
    if can.caller_transcript == "none" and can.default_transcription:
        yield "default_transcription is named, and caller_transcript is 'none'"
    if "handler" in can.floors and can.caller_transcript == "none":
        yield "a handler answers transcripts: the handler floor needs caller_transcript"
    if can.begins_turns and "manual" not in can.turn_detection:
        yield "begins_turns is about push to talk, which turn_detection lacks: add 'manual', or leave it out"
    if "commit" in can.answers_after and "manual" not in can.turn_detection:
        yield "answers_after has 'commit', and turn_detection lacks 'manual': nobody would commit a turn"
    if can.max_duration is not None and can.max_duration <= 0:
        yield f"max_duration is {can.max_duration:g} s; None is no limit"
    yield from _media_gaps(pair)
    yield from _limit_gaps(can, provider)
    yield from _module_gaps(pair)


def _media_gaps(pair: PairSpec) -> Iterator[str]:
    can = pair.capabilities
    medium = next((each.media for each in CORE_TRANSPORTS if each.name == pair.transport), pair.media)
    if pair.media != medium:
        yield f"media is {pair.media!r}, and the transport {pair.transport} is {medium!r}"
    if pair.media == "direct" and can.formats:
        yield "formats are negotiated by the ends of direct media: leave them out"
    if pair.media != "direct" and not can.formats:
        yield "the control plane carries the audio, so formats must name the provider's formats"
    keys = pair.media == "bridged" and any(each.dtmf for each in CORE_TRANSPORTS if each.name == pair.transport)
    if keys and "handler" in can.floors and not can.dtmf:
        yield f"dtmf is False, and the transport {pair.transport} carries keys to the handler of any provider: set dtmf=True"
    if pair.media == "direct" and can.dtmf:
        yield "dtmf is set, and the media is direct: telephone keys reach the control plane only where it carries the audio"
    if (can.resumption == "attach") is not (pair.media == "direct") and can.resumption != "none":
        yield f"resumption is {can.resumption!r}, and the media is {pair.media!r}: 'attach' is for direct media, and only that"
    if can.delays_interruption and can.interruption != "server":
        yield "delays_interruption is about interruption='server': with 'client' the control plane waits, so leave it out"
    if can.truncation != "none" and can.interruption == "none":
        yield "truncation is declared, and interruption is 'none': a reply that nothing stops is always heard to its end"


def _limit_gaps(can: Capabilities, provider: ProviderSpec) -> Iterator[str]:
    for name in _ALWAYS:
        if name not in can.limits:
            yield f"limits lacks {name!r}, which every session has"
    if "tool_calls" in can.limits and can.tools == "none":
        yield "limits has 'tool_calls', and tools is 'none': there is nothing to count"
    if "turns" not in can.limits:
        yield "limits lacks 'turns', which the control plane counts for every pair: add it"
    if "tool_calls" not in can.limits and can.tools != "none":
        yield f"limits lacks 'tool_calls', and tools is {can.tools!r}: add it, the control plane counts them"
    priced = {price.model for price in provider.prices}
    wanted = set(provider.models.known) if provider.models.closed else {provider.models.default} - {None}
    if "cost" not in can.limits:
        if can.usage == "tokens" and wanted and wanted <= priced:
            yield "limits lacks 'cost', usage is 'tokens', and prices has the models: add it, the cost is known"
        return
    if can.usage == "cost":
        return
    if can.usage == "none":
        yield "limits has 'cost', and usage is 'none': nothing would ever be counted"
        return
    if missing := sorted(name for name in wanted if name is not None and name not in priced):
        yield f"limits has 'cost', usage is 'tokens', and prices lacks {', '.join(missing)}: its cost would be unknown"


def _module_gaps(spec: PairSpec | TransportSpec) -> Iterator[str]:
    if spec.extra is not None and not spec.requires:
        yield f"extra is {spec.extra!r}, and requires names no module that it installs"


def transport_gaps(transport: TransportSpec) -> Iterator[str]:
    """Yield what is missing or contradictory in a plugin's transport with a factory."""
    if not transport.summary.strip():
        yield "summary is empty: af adapters and the matrix show it"
    if transport.media != "bridged":
        yield f"media is {transport.media!r}: only transports whose media is bridged have caller legs"
    if not transport.routes:
        yield "it has no routes, so no caller could connect"
    for route in transport.routes:
        for gap in _route_gaps(route):
            yield f"route {route.method} {route.path}: {gap}"
    yield from _module_gaps(transport)


def _route_gaps(route: RouteSpec) -> Iterator[str]:
    if not route.summary.strip():
        yield "summary is empty: the OpenAPI document shows it"
