"""The figures of a placement, worked out once more from raw samples and the API, with the formulas written out anew.

Nothing of edgeward.placement is used here: this is what its answers are held against.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.demo.kube import Object, unix

WEIGHTS = {"headroom": 1.0, "load": 3.0, "completion": 2.0, "model": 0.5, "spread": 2.0, "stay": 0.5}
EXPIRY_S = 180.0
_PODS = 'id=~"/(.+/)?kubepods(.slice)?"'


@dataclass(frozen=True, kw_only=True)
class Sample:
    at: float
    value: float


def raw_samples(prometheus: str, series: str, node: str, *, until: float, seconds: int) -> list[Sample]:
    """What Prometheus scraped, oldest first."""
    query = f'{series}{{{_PODS},node="{node}"}}[{seconds}s]'
    parameters = urllib.parse.urlencode({"query": query, "time": until})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{parameters}", timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    assert len(found) == 1, f"{len(found)} series for {query}"
    return [Sample(at=float(at), value=float(value)) for at, value in found[0]["values"]]


def rate(samples: Sequence[Sample], *, at: float, window: float) -> float | None:
    """Prometheus' rate() at a time: the increase over the window, extrapolated to its ends. Source: its documentation
    on rate() and, for how far it extrapolates, the comments at extrapolatedRate in promql/functions.go (2.42)."""
    inside = [sample for sample in samples if at - window <= sample.at <= at]
    if len(inside) < 2:
        return None
    increase = sum(max(after.value - before.value, 0.0) for before, after in pairwise(inside))
    sampled = inside[-1].at - inside[0].at
    mean = sampled / (len(inside) - 1)
    begin, end = inside[0].at - (at - window), at - inside[-1].at
    if increase > 0 and inside[0].value >= 0:
        begin = min(begin, sampled * inside[0].value / increase)
    covered = sampled + sum(gap if gap < 1.1 * mean else mean / 2 for gap in (begin, end))
    return increase * covered / sampled / window


def rates(samples: Sequence[Sample], *, measured: float, decided: float, window: float) -> list[float]:
    """What rate() may have said to somebody who asked after the sample of `measured` came and before the decision.

    `measured` and `decided` are whole seconds, cut; samples that came later were not there to be asked for.
    """
    there = [sample for sample in samples if int(sample.at) <= measured]
    assert there and int(there[-1].at) == int(measured), f"no sample at {measured}: {[s.at for s in samples]}"
    begin, steps = there[-1].at, int((decided + 1 - there[-1].at) * 20) + 1
    found = [rate(there, at=begin + step / 20, window=window) for step in range(steps)]
    return [value for value in found if value is not None]


def cpu_of(text: Any) -> float:
    """Cores of a Kubernetes quantity as the tests' nodes and pods use it."""
    text = str(text)
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def bytes_of(text: Any) -> float:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    text = str(text)
    return float(text[:-2]) * units[text[-2:]] if text[-2:] in units else float(text)


def requested(pods: Iterable[Object], node: str) -> tuple[float, float]:
    """(cores, bytes) that the pods on a node request together."""
    cores = memory = 0.0
    for pod in pods:
        if pod["spec"].get("nodeName") == node and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            for container in pod["spec"]["containers"]:
                asked = container.get("resources", {}).get("requests") or {}
                cores += cpu_of(asked.get("cpu", 0))
                memory += bytes_of(asked.get("memory", 0))
    return cores, memory


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What status should say of one node, as numbers. per_mille figures are 0..1000."""

    cores: float
    free_cores: float
    requested_cores: float
    in_flight_cores: float
    confidence: float
    load: float
    capability: float
    terms: Mapping[str, float]
    score: float


def expected(
    *,
    node: Object,
    pods: Sequence[Object],
    job: str,
    asked: tuple[float, float],
    holds: bool,
    live: float,
    memory: float,
    age: float,
    interval: float,
    measured: float,
) -> Expected:
    """live: cores in use, memory: bytes in use. age: of the sample, seconds; measured: when it was, Unix seconds.

    asked: what one replica of the job requests. holds: the job's pod is among `pods` on this node already.
    """
    name, allocatable = node["metadata"]["name"], node["status"]["allocatable"]
    cores, bytes_ = cpu_of(allocatable["cpu"]), bytes_of(allocatable["memory"])
    used_cores, used_bytes = requested(pods, name)
    if not holds:
        used_cores, used_bytes = used_cores + asked[0], used_bytes + asked[1]
    unseen = [
        pod
        for pod in pods
        if pod["spec"].get("nodeName") == name
        and pod["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "edgeward"
        and pod["metadata"]["labels"].get("edgeward.dev/job") != job
        and unix(pod["status"]["startTime"]) > measured - interval
    ]
    in_flight = asked[0] + sum(requested([pod], name)[0] for pod in unseen)
    in_flight_bytes = asked[1] + sum(requested([pod], name)[1] for pod in unseen)
    fresh = 2 * interval
    confidence = min(1.0, max(0.0, (EXPIRY_S - age) / (EXPIRY_S - fresh)))
    free = max(0.0, cores - (confidence * (live + in_flight) + (1 - confidence) * used_cores))
    load = 1 - free / cores
    busy_bytes = max(used_bytes, confidence * (memory + in_flight_bytes) + (1 - confidence) * used_bytes)
    cut = min(load, 0.99)
    completion = max(1.0 * cut / (1 - cut), 0.0) + 1.0  # in units of one request's time, which nobody has measured
    values = {
        "headroom": max(0.0, min(1 - used_cores / cores, 1 - busy_bytes / bytes_)),
        "load": (1 - load) * (1 - 0.5 * (1 - confidence)),
        "completion": 1 / (1 + completion),
        "model": 0.0,
        "spread": 0.5 / 1 + 0.5 / 1,
        "stay": 0.0,
    }
    total = sum(WEIGHTS.values())
    return Expected(
        cores=cores,
        free_cores=free,
        requested_cores=used_cores,
        in_flight_cores=in_flight,
        confidence=1000 * confidence,
        load=1000 * load,
        capability=cores * free / 1.0,
        terms={name: 1000 * value for name, value in values.items()},
        score=1000 * sum(WEIGHTS[name] * value for name, value in values.items()) / total,
    )


def priority(marks: Sequence[tuple[int, int, int]], index: int) -> Fraction:
    """P = w1 A + w2 B + w3 C, w = 1 / column sum over the jobs."""
    sums = [sum(row[column] for row in marks) for column in range(3)]
    return sum((Fraction(marks[index][column], sums[column]) for column in range(3)), Fraction(0))
