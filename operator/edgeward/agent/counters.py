"""What each model digest did at this site since a moment, from counters that every runtime process begins at zero.

One look after the other adds what a pod counted since the look before; what a pod that crashed or was replaced had
counted by then stays. So the sums outlive pods and processes, and add up over sites. No I/O, no clock.

A histogram's form, for who pools it (bounds and counts as in Prometheus, but not cumulative):
Latency     seconds of answered requests, bounds fleet.traffic.LATENCY_BOUNDS
Agreement   shares of rows in which a copy's answer agrees, a sample for each copy, bounds AGREEMENT_BOUNDS
Accuracy    bounds ["0"], counts [rows told wrong, rows told right], sum the right ones
Drift       no bounds, counts [rows], sum rows times PSI of the tensor furthest off: sum / rows is the mean over pods.
            It is of each process's last hour, not since the moment: PSI of a few rows says nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeward.api.assignment import Counters
from edgeward.api.common import format_time, parse_time
from edgeward.api.quantity import format_decimal
from edgeward.cluster.resources import Object
from edgeward.fleet.traffic import LATENCY_BOUNDS

from .exposition import MOST_VERSIONS

AGREEMENT_BOUNDS = (0.0, 0.5, 0.9, 0.95, 0.99)
"""those of the runtime; one more bin takes what is above"""
MOST_DIGESTS = 8
"""what the CRD takes"""
LARGEST = 2**53
LARGEST_SUM = 1e12
_LOADED = frozenset({"Loading", "Checking", "Warming", "Mirroring", "Serving"})
"""states in which a model's own code may bring the process down"""

Version = tuple[str, str, str]
"""name, version, digest: a runtime counts for each of them"""


@dataclass(frozen=True, slots=True)
class Bins:
    """Samples by bin, and their sum."""

    counts: tuple[int, ...]
    sum: float = 0.0

    def __add__(self, other: Bins) -> Bins:
        return Bins(tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)), self.sum + other.sum)

    def __sub__(self, other: Bins) -> Bins:
        counts = tuple(a - b for a, b in zip(self.counts, other.counts, strict=True))
        return Bins(counts, max(0.0, self.sum - other.sum))


_LATENCY = Bins((0,) * (len(LATENCY_BOUNDS) + 1))
_AGREEMENT = Bins((0,) * (len(AGREEMENT_BOUNDS) + 1))
_ACCURACY = Bins((0, 0))
_DRIFT = Bins((0,))
_FORMS: Mapping[str, tuple[tuple[float, ...], Bins]] = {
    "Latency": (LATENCY_BOUNDS, _LATENCY),
    "Drift": ((), _DRIFT),
    "Agreement": (AGREEMENT_BOUNDS, _AGREEMENT),
    "Accuracy": ((0.0,), _ACCURACY),
}
"""bounds and nothing counted, by the name of the histogram"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Of one version, by one process since it began or between two looks."""

    requests: int = 0
    errors: int = 0
    latency: Bins = _LATENCY
    agreement: Bins = _AGREEMENT
    accuracy: Bins = _ACCURACY
    drift: Bins = _DRIFT
    """as it is, whatever was before"""

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            latency=self.latency + other.latency,
            agreement=self.agreement + other.agreement,
            accuracy=self.accuracy + other.accuracy,
            drift=self.drift + other.drift,
        )

    def since(self, before: Counted) -> Counted:
        """What was counted since a look before; all of it if a counter fell, as then they began anew."""
        pairs = (
            (self.latency, before.latency),
            (self.agreement, before.agreement),
            (self.accuracy, before.accuracy),
        )
        if (
            self.requests < before.requests
            or self.errors < before.errors
            or any(now < was for a, b in pairs for now, was in zip(a.counts, b.counts, strict=True))
        ):
            return self
        return replace(
            self,
            requests=self.requests - before.requests,
            errors=self.errors - before.errors,
            latency=self.latency - before.latency,
            agreement=self.agreement - before.agreement,
            accuracy=self.accuracy - before.accuracy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One pod at one look."""

    uid: str
    running: bool = True
    """a container of it has been started"""
    restarts: int = 0
    answer: Object | None = None
    """the contract's status; None: it did not answer at this look"""


@dataclass(slots=True)
class _Pod:
    restarts: int
    versions: dict[Version, Counted] | None = None
    """as of the last look that it answered; None: there was none yet, and what it says first is where counting begins"""
    started: str = ""
    """of the process that answered"""
    loaded: frozenset[str] = frozenset()
    """digests that it served or was about to"""


@dataclass(slots=True)
class _Sum:
    counted: Counted = field(default_factory=Counted)
    """without drift of processes that live"""
    restarts: int = 0
    at: float = 0.0
    """when a pod last told of it"""


class Tally:
    """The sums of one Assignment since one moment."""

    def __init__(self, *, resumed: Iterable[Counters] = ()) -> None:
        """resumed: what an agent before this one had reported of the same moment. Drift is not taken from it: the
        processes that live tell it again."""
        self._pods: dict[str, _Pod] = {}
        self._begun = False
        self._sums: dict[str, _Sum] = {}
        for item in resumed:
            at = parse_time(item.at) if item.at else 0.0
            self._sums[item.digest] = _Sum(_read(item), item.restarts, at)

    def look(self, pods: Iterable[Looked], *, at: float, wanted: Sequence[str] = ()) -> None:
        """All pods that there are, as they are at that time (Unix seconds). wanted: digests that they are to serve, for
        restarts of a pod that never answered.

        The first look is where counting begins. A pod that runs then counts from its first answer on; one that comes
        later counts from its beginning.
        """
        present = set()
        for pod in pods:
            present.add(pod.uid)
            known = self._pods.get(pod.uid)
            if known is None:
                old = not self._begun and (pod.running or pod.answer is not None)
                known = self._pods[pod.uid] = _Pod(restarts=pod.restarts if old else 0, versions=None if old else {})
            if pod.restarts > known.restarts:
                for digest in known.loaded or wanted:
                    sums = self._sum(digest)
                    sums.restarts, sums.at = sums.restarts + pod.restarts - known.restarts, at
                known.restarts = pod.restarts
            if pod.answer is not None:
                self._answered(known, pod.answer, at)
        for uid in self._pods.keys() - present:
            self._ended(self._pods.pop(uid))
        self._begun = True

    def counters(self, *, first: Sequence[str] = ()) -> list[dict[str, Any]]:
        """As in AssignmentStatus.counters, without `since`, sorted by digest. first: digests that must be among them."""
        drifts: dict[str, Bins] = {}
        for pod in self._pods.values():
            for (_, _, digest), counted in (pod.versions or {}).items():
                drifts[digest] = drifts.get(digest, _DRIFT) + counted.drift
        chosen = sorted(
            self._sums, key=lambda digest: (digest not in first, -self._sums[digest].counted.requests, digest)
        )
        return [
            _written(digest, self._sums[digest], drifts.get(digest, _DRIFT)) for digest in sorted(chosen[:MOST_DIGESTS])
        ]

    def _answered(self, pod: _Pod, answer: Object, at: float) -> None:
        models = answer["models"]
        versions = {
            (model["name"], model["version"], model["digest"]): counted
            for model in models
            if (counted := read(model.get("counters"))) is not None and self._room_for(model["digest"])
        }
        for _, _, digest in versions:
            self._sum(digest).at = at
        started = str(answer.get("started") or "")
        if pod.started and started and started != pod.started:
            self._ended(pod)
            pod.versions = {}
        pod.started = started or pod.started
        if pod.versions is None:
            pod.versions = versions
        else:
            for version, counted in versions.items():
                sums, before = self._sum(version[2]), pod.versions.get(version, Counted())
                sums.counted += replace(counted.since(before), drift=_DRIFT)
            # One that is not among them was unloaded; should it come back, it may go on from where it was.
            pod.versions = {**pod.versions, **versions}
        pod.loaded = frozenset(model["digest"] for model in models if model["serving"] or model["state"] in _LOADED)

    def _ended(self, pod: _Pod) -> None:
        for (_, _, digest), counted in (pod.versions or {}).items():
            sums = self._sum(digest)
            sums.counted = replace(sums.counted, drift=sums.counted.drift + counted.drift)

    def _room_for(self, digest: str) -> bool:
        """A pod may tell of as many digests as it likes."""
        if digest not in self._sums and len(self._sums) < MOST_VERSIONS:
            self._sums[digest] = _Sum()
        return digest in self._sums

    def _sum(self, digest: str) -> _Sum:
        return self._sums.setdefault(digest, _Sum())


def read(counters: object) -> Counted | None:
    """A runtime's counters; None for what no honest runtime says. What a pod answers is untrusted."""
    if not isinstance(counters, dict):
        return None
    mirror, feedback = counters.get("mirror", {}), counters.get("feedback", {})
    drift = counters.get("drift", {"psi": 0, "rows": 0})
    try:
        rows, psi = _count(drift["rows"]), _number(drift["psi"])
        wrong, right = _count(feedback.get("wrong", 0)), _count(feedback.get("right", 0))
        return Counted(
            requests=_count(counters["requests"]),
            errors=_count(counters["errors"]),
            latency=_bins(counters["latency"], LATENCY_BOUNDS),
            agreement=_bins(mirror["agreement"], AGREEMENT_BOUNDS) if mirror else _AGREEMENT,
            accuracy=Bins((wrong, right), float(right)),
            drift=Bins((rows,), _number(rows * psi)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _bins(histogram: Any, onto: Sequence[float]) -> Bins:
    bounds, counts = [_number(bound) for bound in histogram["bounds"]], [_count(item) for item in histogram["counts"]]
    if bounds != sorted(bounds) or len(counts) != len(bounds) + 1:
        raise ValueError("no histogram")
    bins = [0] * (len(onto) + 1)
    for index, count in enumerate(counts):
        # Another version of the runtime may have other bounds: what it counts goes to the bin that holds its bound.
        bins[bisect_left(onto, bounds[index]) if index < len(bounds) else -1] += count
    return Bins(tuple(bins), _number(histogram["sum"]))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError("no count")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < LARGEST_SUM:
        raise ValueError("no measure")
    return float(value)


def _read(item: Counters) -> Counted:
    """What was written before; histograms of another form, as of another version of the agent, are left out."""
    found: dict[str, Bins] = {}
    for histogram in item.histograms:
        bounds, empty = _FORMS[histogram.name]
        same = tuple(map(float, histogram.bounds)) == bounds and len(histogram.counts) == len(empty.counts)
        if same and histogram.name != "Drift":
            found[histogram.name.lower()] = Bins(histogram.counts, float(histogram.sum or 0))
    return Counted(requests=item.requests, errors=item.errors, **found)


def _written(digest: str, sums: _Sum, drift: Bins) -> dict[str, Any]:
    counted = replace(sums.counted, drift=sums.counted.drift + drift)
    histograms = []
    for name, (bounds, _) in _FORMS.items():
        bins: Bins = getattr(counted, name.lower())
        if any(bins.counts):
            histograms.append(
                {
                    "name": name,
                    "bounds": [format_decimal(bound) for bound in bounds],
                    "counts": list(bins.counts),
                    "sum": format_decimal(min(bins.sum, LARGEST_SUM - 1)),
                }
            )
    return {
        "digest": digest,
        "requests": counted.requests,
        "errors": counted.errors,
        "restarts": sums.restarts,
        "at": format_time(sums.at),
        "histograms": histograms,
    }
