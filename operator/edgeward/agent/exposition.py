"""Reads the counters that matter out of a runtime's /metrics. What a pod answers is untrusted: any value that cannot be
is no reading at all, since half a reading would pass for a small one.

Text format 0.0.4, of which only a runtime's own part is read: NAME{LABEL="VALUE",...} VALUE.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeward.fleet.traffic import LATENCY_BOUNDS, NO_LATENCIES

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MOST_VERSIONS = 64
LARGEST = 2.0**53
"""above it a float no longer counts by ones"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one model digest, since its process began or between two readings."""

    served: float = 0.0
    """requests answered"""
    errors: float = 0.0
    """requests that failed on the server's side (5xx)"""
    busy: float = 0.0
    """seconds of decoding, running and encoding the served ones"""
    transfers: float = 0.0
    """requests whose client said how long its last one was on the way"""
    transfer: float = 0.0
    """seconds, their sum"""
    latency: tuple[float, ...] = NO_LATENCIES
    """served ones by latency, see LATENCY_BOUNDS"""

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1.0)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1.0)

    def times(self, factor: float) -> Counts:
        return Counts()._with(self, factor)

    def _with(self, other: Counts, factor: float) -> Counts:
        return Counts(
            self.served + factor * other.served,
            self.errors + factor * other.errors,
            self.busy + factor * other.busy,
            self.transfers + factor * other.transfers,
            self.transfer + factor * other.transfer,
            tuple([mine + factor * theirs for mine, theirs in zip(self.latency, other.latency, strict=True)]),
        )

    def fell_below(self, before: Counts) -> bool:
        """Whether a counter went back, which says that its process began anew."""
        return (
            self.served < before.served
            or self.errors < before.errors
            or self.busy < before.busy
            or self.transfers < before.transfers
            or self.transfer < before.transfer
            or any(now < was for now, was in zip(self.latency, before.latency, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Page:
    """One reading of one runtime."""

    digests: Mapping[str, Counts]
    serving: str = ""
    """the digest that serves now; empty when none does"""
    started: float | None = None
    """when the process began, Unix seconds by its node's clock"""
    cpu: float | None = None
    """seconds of cpu used since then"""
    memory: float | None = None
    """bytes resident"""


@dataclass(slots=True)
class _Version:
    digest: str = ""
    serving: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    latency: dict[float, float] = field(default_factory=dict)
    """cumulative, by upper bound"""


_SUMS = {
    "nv_inference_request_success": "served",
    "nv_inference_compute_input_duration_us": "busy",
    "nv_inference_compute_infer_duration_us": "busy",
    "nv_inference_compute_output_duration_us": "busy",
    "edgeward_client_transfer_seconds_sum": "transfer",
    "edgeward_client_transfer_seconds_count": "transfers",
}
_PROCESS = ("process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes")
_BUCKET = "edgeward_request_duration_seconds_bucket"
_CODES = "edgeward_requests_total"
_INFO = "edgeward_model_info"
_OURS = frozenset({*_SUMS, *_PROCESS, _BUCKET, _CODES, _INFO})


def read(text: str) -> Page:
    """The page. Raises ValueError for anything that no honest runtime says."""
    versions: dict[tuple[str, str], _Version] = {}
    process: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition(" ")[0].partition("{")[0]
        if name not in _OURS:
            continue
        labels, value = _sample(line[len(name) :])
        if name in _PROCESS:
            process[name] = value
            continue
        version = versions.setdefault((labels.get("model", ""), labels.get("version", "")), _Version())
        if len(versions) > MOST_VERSIONS:
            raise ValueError("too many versions")
        if name == _INFO:
            version.digest = labels.get("digest", "")
            version.serving = labels.get("state") == "Serving"
        elif name == _BUCKET:
            version.latency[_bound(labels.get("le", ""))] = value
        elif name == _CODES:
            if labels.get("code", "").startswith("5"):
                version.sums["errors"] = version.sums.get("errors", 0.0) + value
        else:
            kind = _SUMS[name]
            version.sums[kind] = version.sums.get(kind, 0.0) + (value / 1e6 if kind == "busy" else value)
    digests: dict[str, Counts] = {}
    for version in versions.values():
        if DIGEST.fullmatch(version.digest):
            digests[version.digest] = digests.get(version.digest, Counts()) + _counts(version)
    return Page(
        digests=digests,
        serving=next((item.digest for item in versions.values() if item.serving and item.digest in digests), ""),
        started=process.get(_PROCESS[0]),
        cpu=process.get(_PROCESS[1]),
        memory=process.get(_PROCESS[2]),
    )


def _sample(rest: str) -> tuple[dict[str, str], float]:
    labels, _, number = rest.rpartition(" ")
    value = float(number)
    if not math.isfinite(value) or not 0 <= value <= LARGEST:
        raise ValueError(f"{number[:30]} is no count")
    return dict(LABEL.findall(labels)), value


def _bound(text: str) -> float:
    bound = float(text)
    if math.isnan(bound):
        raise ValueError("a bucket without a bound")
    return bound


def _counts(version: _Version) -> Counts:
    latency, passed = [0.0] * len(NO_LATENCIES), 0.0
    for bound, cumulative in sorted(version.latency.items()):
        if cumulative < passed:
            raise ValueError("a cumulative histogram that falls")
        # Another version of the runtime may have other bounds: what it counts goes to the bucket that holds its bound.
        latency[bisect_left(LATENCY_BOUNDS, bound)] += cumulative - passed
        passed = cumulative
    sums = version.sums
    return Counts(
        served=sums.get("served", 0.0),
        errors=sums.get("errors", 0.0),
        busy=sums.get("busy", 0.0),
        transfers=sums.get("transfers", 0.0),
        transfer=sums.get("transfer", 0.0),
        latency=tuple(latency),
    )
