"""What the agent tells the runtime: `models.json`, contract 1 (../contract/config.schema.json says the same as a
schema).

Checked by plain code, because a schema library at run time would cost memory that a small box does not have; a unit
test holds this code and the schema together. Unknown fields are ignored with a warning: a newer agent may add some. A
higher `contract` is refused as a whole: its fields may mean something else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from edgeward_runtime.capture import policy as capture
from edgeward_runtime.offload.asked import Asked as Offload
from edgeward_runtime.offload.asked import parse as parse_offload
from edgeward_runtime.sharing import Sharing
from edgeward_runtime.sharing import parse as parse_sharing
from edgeward_runtime.trust.policy import MAX_KEY_LENGTH, MAX_KEYS, OFF, REQUIRE, WARN, Policy

CONTRACT = 1
STABLE = "Stable"
CANARY = "Canary"
STAGED = "Staged"  # fetched and verified, never loaded: its turn comes when it is written as Stable
REFUSE = "Refuse"
OFFLOAD_IN_GAP = "OffloadInGap"

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SOURCE = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
_PERCENT = re.compile(r"(100|[0-9]{1,2})%")
_ENTRY_FIELDS = {
    *("name", "version", "digest", "sources", "role", "parameters"),
    *("traffic", "mirror", "mirrorRequests", "downloadPace", "signature", "attempt"),
}
_MAX_MODELS = 64
_MAX_MIRROR_REQUESTS = 1_000_000
_MAX_PACE = 10**12
_MAX_ATTEMPT = 2**53
_MAX_SOURCES = 16
_MAX_SOURCE_LENGTH = 2048


class ConfigError(ValueError):
    """`reason` is Malformed, UnsupportedContract or Invalid; the text names the field."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One wanted model version."""

    name: str
    version: str
    digest: str  # sha256:HEX of the file's bytes
    sources: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    signature: Policy = field(default_factory=Policy)
    role: str = STABLE
    traffic: int = 0  # a canary's share of the requests that name no version, per cent
    mirror: int = 0  # share of the stable version's requests that this one gets a copy of, per cent
    mirror_requests: int = 0  # copies that it must have answered before it takes traffic
    pace: int = 0  # bit/s of its download, 0 = as fast as it goes
    attempt: int = 0  # a refusal of an earlier one is forgotten: somebody wants it tried again

    @property
    def place(self) -> tuple[str, str]:
        """Name and role: one version at a time fills it."""
        return self.name, self.role

    @property
    def key(self) -> str:
        """Changes when anything about the version does: a refused one is tried again only under another key. How much
        traffic it gets is not about the version, and neither is whether it is a canary or stable by now."""
        asked = [self.signature.mode, *self.signature.keys]
        return _canonical([self.name, self.version, self.digest, list(self.sources), self.parameters, asked])

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes a loaded model another one. Where its bytes come from does not."""
        return self.name, self.version, self.digest, _canonical(self.parameters)

    @property
    def parameters_hash(self) -> str:
        """What the status calls them, "" for none; the agent computes the same of what it was told (contract/README.md)."""
        if not self.parameters:
            return ""
        text = json.dumps(self.parameters, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    revision: int
    namespace: str
    job: str
    entries: tuple[Entry, ...]
    when_too_big: str = REFUSE
    priority: int = 1  # the job's class; no request is more urgent
    offload: Offload | None = None
    capture: capture.Policy | None = None
    peers: Sharing | None = None  # the job's other pods at this site
    keep: tuple[str, ...] = ()  # digests whose bytes stay in the store, if they are there: the way back
    warnings: tuple[str, ...] = ()


def parse(text: bytes) -> Config:
    """The config, or ConfigError. Entries of a role that this runtime does not know are left out with a warning."""
    document = _load(text)
    contract = document.get("contract")
    if type(contract) is not int or contract < 1:
        raise ConfigError("Invalid", "contract must be a positive integer")
    if contract > CONTRACT:
        raise ConfigError("UnsupportedContract", f"contract is {contract}, this runtime understands {CONTRACT}")
    revision = document.get("revision")
    if type(revision) is not int or revision < 0:
        raise ConfigError("Invalid", "revision must be a non-negative integer")
    namespace, job = _job(document)
    raw = document.get("models")
    if not isinstance(raw, list) or not 1 <= len(raw) <= _MAX_MODELS:
        raise ConfigError("Invalid", f"models must be a list of 1 to {_MAX_MODELS} entries")
    when_too_big = _when_too_big(document)
    warnings = _unknown(
        document,
        {"contract", "revision", "job", "models", "modelSwap", "offload", "capture", "priority", "peers", "keep"},
        "",
    )
    priority = document.get("priority", 1)
    if type(priority) is not int or not 1 <= priority <= 5:
        raise ConfigError("Invalid", "priority must be an integer from 1 to 5")
    entries: list[Entry] = []
    for index, one in enumerate(raw):
        entry = _entry(one, f"models[{index}]", warnings)
        if entry is None:
            continue
        if any(entry.place == other.place for other in entries):
            raise ConfigError("Invalid", f"models[{index}].name: {entry.name!r} is wanted twice as {entry.role}")
        entries.append(entry)
    stable = {entry.name: entry for entry in entries if entry.role == STABLE}
    if not stable:
        raise ConfigError("Invalid", f"models: none has the role {STABLE}")
    for entry in entries:
        if entry.role == CANARY:
            _check_canary(entry, stable.get(entry.name))
    return Config(
        revision=revision,
        namespace=namespace,
        job=job,
        # Stable first: a canary is checked against what serves. What is only to be fetched comes last.
        entries=tuple(sorted(entries, key=lambda entry: (STABLE, CANARY, STAGED).index(entry.role))),
        when_too_big=when_too_big,
        priority=priority,
        offload=_offload(document, warnings),
        capture=_capture(document, warnings),
        peers=_peers(document, warnings),
        keep=_keep(document),
        warnings=tuple(warnings),
    )


def _check_canary(entry: Entry, stable: Entry | None) -> None:
    if stable is None:
        raise ConfigError("Invalid", f"models: {entry.name!r} has a {CANARY} but no {STABLE}")
    if entry.version == stable.version:
        # Answers name the version that made them, and paths ask for one.
        raise ConfigError("Invalid", f"models: {entry.name!r} has version {entry.version} as {STABLE} and as {CANARY}")


def _offload(document: dict[str, Any], warnings: list[str]) -> Offload | None:
    if "offload" not in document:
        return None
    try:
        offload, unknown = parse_offload(document["offload"])
    except ValueError as error:
        raise ConfigError("Invalid", str(error)) from None
    warnings += [f"{field}: unknown field ignored" for field in unknown]
    return offload


def _keep(document: dict[str, Any]) -> tuple[str, ...]:
    value = document.get("keep", [])
    if not isinstance(value, list) or len(value) > _MAX_MODELS:
        raise ConfigError("Invalid", f"keep must be a list of at most {_MAX_MODELS} digests")
    for index, digest in enumerate(value):
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ConfigError("Invalid", f"keep[{index}] does not match {_DIGEST.pattern}")
    return tuple(value)


def _peers(document: dict[str, Any], warnings: list[str]) -> Sharing | None:
    if "peers" not in document:
        return None
    unknown: list[str] = []
    try:
        peers = parse_sharing(document["peers"], unknown)
    except ValueError as error:
        raise ConfigError("Invalid", str(error)) from None
    warnings += [f"{field}: unknown field ignored" for field in unknown]
    return peers


def _capture(document: dict[str, Any], warnings: list[str]) -> capture.Policy | None:
    if "capture" not in document:
        return None
    try:
        return capture.parse(document["capture"], warnings)
    except capture.BadPolicy as error:
        raise ConfigError("Invalid", str(error)) from None


def _when_too_big(document: dict[str, Any]) -> str:
    swap = document.get("modelSwap", {})
    if not isinstance(swap, dict):
        raise ConfigError("Invalid", "modelSwap must be an object")
    value = swap.get("whenTooBig", REFUSE)
    if value not in (REFUSE, OFFLOAD_IN_GAP):
        raise ConfigError("Invalid", f"modelSwap.whenTooBig must be {REFUSE} or {OFFLOAD_IN_GAP}")
    return str(value)


def job_of(text: bytes) -> tuple[str, str] | None:
    """Namespace and name of the job in a config that parse() refuses: at boot the last good version of the job is
    looked up by it."""
    try:
        return _job(_load(text))
    except ConfigError:
        return None


def _load(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError("Malformed", f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError("Malformed", "not a JSON object")
    return document


def _job(document: dict[str, Any]) -> tuple[str, str]:
    job = document.get("job")
    if not isinstance(job, dict):
        raise ConfigError("Invalid", "job must be an object")
    return _match(job, "namespace", _OBJECT_NAME, "job"), _match(job, "name", _OBJECT_NAME, "job")


def _match(holder: dict[str, Any], key: str, pattern: re.Pattern[str], where: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ConfigError("Invalid", f"{where}.{key}: {value!r:.100} does not match {pattern.pattern}")
    return value


def _unknown(holder: dict[str, Any], known: set[str], where: str) -> list[str]:
    return [f"{where}{key}: unknown field ignored" for key in sorted(holder.keys() - known)]


def _entry(raw: object, where: str, warnings: list[str]) -> Entry | None:
    if not isinstance(raw, dict):
        raise ConfigError("Invalid", f"{where} must be an object")
    role = raw.get("role", STABLE)
    if not isinstance(role, str):
        raise ConfigError("Invalid", f"{where}.role must be a string")
    sources = raw.get("sources")
    if not isinstance(sources, list) or not 1 <= len(sources) <= _MAX_SOURCES:
        raise ConfigError("Invalid", f"{where}.sources must be a list of 1 to {_MAX_SOURCES} addresses")
    for index, source in enumerate(sources):
        if not isinstance(source, str) or len(source) > _MAX_SOURCE_LENGTH or not _SOURCE.fullmatch(source):
            raise ConfigError("Invalid", f"{where}.sources[{index}] is not an address like https://... or file:///...")
    parameters = raw.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ConfigError("Invalid", f"{where}.parameters must be an object")
    if type(parameters.get("allowSchemaChange", False)) is not bool:
        raise ConfigError("Invalid", f"{where}.parameters.allowSchemaChange must be true or false")
    entry = Entry(
        name=_match(raw, "name", MODEL_NAME, where),
        version=_match(raw, "version", VERSION, where),
        digest=_match(raw, "digest", _DIGEST, where),
        sources=tuple(sources),
        parameters=parameters,
        signature=_signature(raw, where),
        role=role,
        traffic=_percent(raw, "traffic", where),
        mirror=_integer(raw, "mirror", 100, where),
        mirror_requests=_integer(raw, "mirrorRequests", _MAX_MIRROR_REQUESTS, where),
        pace=_integer(raw, "downloadPace", _MAX_PACE, where),
        attempt=_integer(raw, "attempt", _MAX_ATTEMPT, where),
    )
    warnings += _unknown(
        raw,
        _ENTRY_FIELDS,
        where + ".",
    )
    if role not in (STABLE, CANARY, STAGED):
        warnings.append(f"{where}: role {role!r:.50} is not supported, entry ignored")
        return None
    return entry


def _signature(raw: dict[str, Any], where: str) -> Policy:
    """Of an unknown policy nobody can say how strict it is, so the config is refused. Keys are looked at when a model
    is verified, since that takes the library."""
    value = raw.get("signature", {"policy": OFF})
    if not isinstance(value, dict):
        raise ConfigError("Invalid", f"{where}.signature must be an object")
    mode, keys = value.get("policy"), value.get("keys", [])
    if mode not in (REQUIRE, WARN, OFF):
        raise ConfigError("Invalid", f"{where}.signature.policy must be {REQUIRE}, {WARN} or {OFF}")
    if (
        not isinstance(keys, list)
        or len(keys) > MAX_KEYS
        or not all(isinstance(key, str) and len(key) <= MAX_KEY_LENGTH for key in keys)
    ):
        raise ConfigError("Invalid", f"{where}.signature.keys must be a list of at most {MAX_KEYS} keys in PEM")
    if mode != OFF and not keys:
        raise ConfigError("Invalid", f"{where}.signature.keys is empty but the policy is {mode}")
    return Policy(str(mode), tuple(keys))


def _percent(raw: dict[str, Any], key: str, where: str) -> int:
    value = raw.get(key, "0%")
    if not isinstance(value, str) or not _PERCENT.fullmatch(value):
        raise ConfigError("Invalid", f"{where}.{key}: {value!r:.100} is not a share like 10%")
    return int(value[:-1])


def _integer(raw: dict[str, Any], key: str, most: int, where: str) -> int:
    value = raw.get(key, 0)
    if type(value) is not int or not 0 <= value <= most:
        raise ConfigError("Invalid", f"{where}.{key}: {value!r:.100} is not a whole number from 0 to {most}")
    return value
