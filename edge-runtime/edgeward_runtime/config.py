"""What the agent tells the runtime: `models.json`, contract 1 (../contract/config.schema.json says the same as a
schema).

Checked by plain code, because a schema library at run time would cost memory that a small box does not have; a unit
test holds this code and the schema together. Unknown fields are ignored with a warning: a newer agent may add some. A
higher `contract` is refused as a whole: its fields may mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

CONTRACT = 1
STABLE = "Stable"

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SOURCE = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
_MAX_MODELS = 64
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

    @property
    def key(self) -> str:
        """Changes when anything about the entry does: a refused entry is tried again only under another key."""
        return _canonical([self.name, self.version, self.digest, list(self.sources), self.parameters])

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes a loaded model another one. Where its bytes come from does not."""
        return self.name, self.version, self.digest, _canonical(self.parameters)


def _canonical(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    revision: int
    namespace: str
    job: str
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


def parse(text: bytes) -> Config:
    """The config, or ConfigError. Entries whose role is not Stable are left out with a warning: they are later
    work's."""
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
    warnings = _unknown(document, {"contract", "revision", "job", "models"}, "")
    entries: list[Entry] = []
    for index, one in enumerate(raw):
        entry = _entry(one, f"models[{index}]", warnings)
        if entry is None:
            continue
        if any(entry.name == other.name for other in entries):
            raise ConfigError("Invalid", f"models[{index}].name: {entry.name!r} is wanted twice as {STABLE}")
        entries.append(entry)
    if not entries:
        raise ConfigError("Invalid", f"models: none has the role {STABLE}")
    return Config(revision=revision, namespace=namespace, job=job, entries=tuple(entries), warnings=tuple(warnings))


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
    )
    warnings += _unknown(raw, {"name", "version", "digest", "sources", "role", "parameters"}, where + ".")
    if role != STABLE:
        warnings.append(f"{where}: role {role!r:.50} is not supported, entry ignored")
        return None
    return entry
