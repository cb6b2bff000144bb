"""What outlives the process, one small file each in the job's folder of the store (store.py writes them whole or not at
all; a damaged one reads as none).

    last-good.json          what serves, for a boot without network or with a config that fails
    previous.json           what served before that: its bytes stay in the store, so that going back needs no network
    refused.json            versions that are not to be tried again
    attempting-HOST.json    versions that are loaded, get copies of requests or are canaries; what is still there at the
                            next start may have ended the process
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from edgeward_runtime.config import Entry
from edgeward_runtime.lifecycle import Refused
from edgeward_runtime.store import Store
from edgeward_runtime.trust.policy import OFF, REQUIRE, WARN, Policy

_REFUSED_KEPT = 32  # entries in a job's refused record


class Records:
    """`host`: the pod, since replicas that share a store must not take each other's loads for crashed ones. `build`:
    versions of this runtime and of onnxruntime, a refusal is remembered for these only. Before `job` is set nothing is
    read or written."""

    def __init__(self, *, store: Store, host: str, build: str) -> None:
        self._store = store
        self._attempting = f"attempting-{host}"
        self._build = build
        self.job: tuple[str, str] | None = None  # namespace and name

    def _read(self, name: str) -> dict[str, Any]:
        return self._store.read_record(*self.job, name) if self.job is not None else {}

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        if self.job is not None:
            self._store.write_record(*self.job, name, document)

    # -- what served ----------------------------------------------------------------------------------------------

    def last_good(self) -> list[Entry]:
        found = (_entry_of_record(name, record) for name, record in self._read("last-good").items())
        return [entry for entry in found if entry is not None]

    def previous(self) -> list[Entry]:
        """What served before and was not given up by going back."""
        found = (
            _entry_of_record(name, record)
            for name, record in self._read("previous").items()
            if isinstance(record, dict) and not record.get("rolledBack")
        )
        return [entry for entry in found if entry is not None]

    def remember_good(self, entries: Iterable[Entry]) -> None:
        """Notes what serves now, and of each name what served before it: those bytes stay in the store."""
        if self.job is not None:
            self._store.write_good(*self.job, {entry.name: _record_of(entry) for entry in entries})

    # -- refusals -------------------------------------------------------------------------------------------------

    def refused(self, entry: Entry, *, wall: float) -> Refused | None:
        record = self._read("refused").get(_short(entry.key))
        if not isinstance(record, dict) or record.get("by") != self._build or _attempt(record) < entry.attempt:
            return None
        return Refused(
            step=str(record.get("step")),
            reason=str(record.get("reason")),
            message=str(record.get("message")),
            at=float(record.get("at", wall)),
        )

    def remember_refused(self, entry: Entry, refused: Refused) -> None:
        record = self._read("refused")
        record[_short(entry.key)] = {
            "step": refused.step, "reason": refused.reason, "message": refused.message, "at": refused.at,
            "by": self._build, "attempt": entry.attempt,
        }  # fmt: skip
        newest = sorted(record.items(), key=lambda item: item[1].get("at", 0), reverse=True)[:_REFUSED_KEPT]
        self._write("refused", dict(newest))

    # -- loads that run -------------------------------------------------------------------------------------------

    def crashes(self, entry: Entry) -> int:
        """How many processes in a row ended while they loaded this version."""
        attempt = self._read(self._attempting).get(_short(entry.key))
        if not isinstance(attempt, dict) or attempt.get("by") != self._build or _attempt(attempt) < entry.attempt:
            return 0
        tries = attempt.get("tries")
        return tries if type(tries) is int else 1

    def load_begins(self, entry: Entry, *, tries: int, wanted: Iterable[Entry]) -> None:
        """Notes that a load runs, and the trial after it. A note that is still there at the next start means that it ended
        the process (killed for its memory, a crash in native code), and would again: then what served last has to come
        first. Not for a version that served before: nothing else could, and more likely the power went."""
        if any(good.identity == entry.identity for good in self.last_good()):
            return
        keys = {_short(one.key) for one in wanted}
        record = {key: value for key, value in self._read(self._attempting).items() if key in keys}
        record[_short(entry.key)] = {
            "digest": entry.digest, "tries": tries, "by": self._build, "attempt": entry.attempt,
        }  # fmt: skip
        self._write(self._attempting, record)

    def load_ended(self, entry: Entry) -> None:
        record = self._read(self._attempting)
        if record.pop(_short(entry.key), None) is not None:
            self._write(self._attempting, record)


def _attempt(record: Mapping[str, Any]) -> int:
    """That a record is about; one written before there were any is about the first."""
    attempt = record.get("attempt")
    return attempt if type(attempt) is int else 0


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _record_of(entry: Entry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "digest": entry.digest,
        "sources": list(entry.sources),
        "parameters": dict(entry.parameters),
        "signature": {"policy": entry.signature.mode, "keys": list(entry.signature.keys)},
    }


def _entry_of_record(name: str, record: object) -> Entry | None:
    """A record is a file that anything may have happened to; one that makes no sense is as good as none."""
    if not isinstance(record, dict):
        return None
    version, digest, parameters = record.get("version"), record.get("digest"), record.get("parameters")
    sources = record.get("sources")
    if not (
        isinstance(version, str)
        and isinstance(digest, str)
        and isinstance(parameters, dict)
        and isinstance(sources, list)
    ):
        return None
    hexadecimal = digest.removeprefix("sha256:")
    if len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        return None
    return Entry(
        name=name,
        version=version,
        digest=digest,
        sources=tuple(map(str, sources)),
        parameters=parameters,
        signature=_policy(record.get("signature")),
    )


def _policy(record: object) -> Policy:
    """Of a record that says nothing sensible, the strictest: a key that is none lets nothing pass."""
    if record is None:
        return Policy()  # written before there were policies
    mode, keys = (record.get("policy"), record.get("keys")) if isinstance(record, dict) else (None, None)
    if mode in (REQUIRE, WARN, OFF) and isinstance(keys, list):
        return Policy(str(mode), tuple(map(str, keys)))
    return Policy(REQUIRE, ())
