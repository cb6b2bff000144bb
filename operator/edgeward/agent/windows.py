"""Turns readings of counters into rates: a minute for what is decided on, a sliding hour for shares and percentiles.

Every difference of two readings is an interval, taken as evenly spread over its time. So pods that come and go, answer
late or leave out a turn need no rule of their own. No I/O; times are Unix seconds.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edgeward.fleet.traffic import Measured, quantile

from .exposition import Counts, Page
from .hours import Hour, bin_of, largest, p95

MOST_PER_SECOND = 1e6
"""requests a second of one pod; beyond, the counter is rubbish"""
MOST_CORES, MOST_BYTES = 4096.0, 2.0**50
LONGEST_REQUEST = 3600.0
SLACK = 2.0
"""seconds that two readings of a process's start may differ"""


@dataclass(frozen=True, slots=True)
class Key:
    """Whose pod it is."""

    job: str
    """namespace/name"""
    site: str


@dataclass(slots=True)
class _Pod:
    key: Key
    page: Page | None = None
    at: float = 0.0
    """of the last reading"""
    intervals: deque[tuple[float, float, dict[str, Counts]]] = field(default_factory=deque)
    gone: bool = False


class Windows:
    """The readings of all pods of one cluster. Bounded: what it holds goes with the number of pods and of (job, site)
    pairs, not with time or requests."""

    def __init__(self, *, window: float = 60.0) -> None:
        self._window = window
        self._pods: dict[str, _Pod] = {}
        self._hours: dict[Key, Hour] = {}
        self._watched_since: float | None = None

    def begin(self, pods: Iterable[tuple[str, Key]], *, at: float) -> None:
        """A turn begins with these pods, by uid. Those that are no longer among them have gone; what they did within
        the window still counts."""
        present = dict(pods)
        for uid, pod in list(self._pods.items()):
            pod.gone = uid not in present
            if pod.gone and (not pod.intervals or pod.intervals[-1][1] <= at - self._window):
                del self._pods[uid]
        for uid, key in present.items():
            if uid not in self._pods:
                self._pods[uid] = _Pod(key=key, at=at if self._watched_since is not None else 0.0)
            elif self._pods[uid].key != key:
                self._pods[uid] = _Pod(key=key)
        if self._watched_since is None:
            self._watched_since = at
        for key, hour in list(self._hours.items()):
            hour.drop(now=at)
            if not len(hour):
                del self._hours[key]

    def note(self, uid: str, page: Page, *, at: float) -> None:
        """A reading of a pod that the turn began with."""
        pod = self._pods.get(uid)
        if pod is None or (pod.page is not None and at <= pod.at):
            return
        before, since = pod.page, pod.at
        pod.page, pod.at = page, at
        born = before is None
        if before is None:
            # Seen for the first time. A pod that came while others were watched began at zero; of the first ones it is
            # not known since when they have counted.
            if since <= 0 or page.started is None or page.started < since - self._window:
                return
            before, since = Page(digests={}), max(min(page.started, at), since - self._window)
        anew = born or _began_anew(before, page)
        zero = Counts()
        deltas = {
            digest: counts - (zero if anew else before.digests.get(digest, zero))
            for digest, counts in page.digests.items()
        }
        if at <= since or not all(_possible(delta, at - since) for delta in deltas.values()):
            return
        pod.intervals.append((since, at, deltas))
        while pod.intervals and pod.intervals[0][1] <= at - 2 * self._window:
            pod.intervals.popleft()
        sums = self._hours.setdefault(pod.key, Hour()).at(at, since=since)
        sums.count(deltas)
        if page.memory is not None and 0 < page.memory <= MOST_BYTES:
            sums.memory[bin_of(page.memory)] += 1
        if not anew and page.cpu is not None and before.cpu is not None:
            cores = (page.cpu - before.cpu) / (at - since)
            if 0 <= cores <= MOST_CORES:
                sums.cpu[bin_of(cores)] += 1

    def measured(self, *, now: float) -> Iterator[Measured]:
        """What is known of every (job, site) that has pods, or had within the window; one after the other, so that
        whoever asks may pause in between."""
        groups: dict[Key, list[_Pod]] = {}
        for pod in self._pods.values():
            if pod.intervals:
                groups.setdefault(pod.key, []).append(pod)
        for key, pods in groups.items():
            found = self._measure(key, pods, now)
            if found is not None:
                yield found

    def _measure(self, key: Key, pods: list[_Pod], now: float) -> Measured | None:
        begin, end, totals, reported = math.inf, -math.inf, dict[str, Counts](), 0
        for pod in pods:
            last = pod.intervals[-1][1]
            if now - last > 2 * self._window:
                continue
            # A pod that has fallen silent is taken to do what it did last; one that is gone does no more.
            edge = now if pod.gone else last
            reported += not pod.gone and now - last <= self._window
            for since, until, deltas in pod.intervals:
                share = _overlap(since, until, edge - self._window, edge)
                if share <= 0:
                    continue
                begin, end = min(begin, max(since, edge - self._window)), max(end, until)
                for digest, delta in deltas.items():
                    totals[digest] = totals.get(digest, Counts()) + delta.times(share)
        if end <= begin:
            return None
        digest = _served_by_most(pods)
        own = totals.get(digest, Counts())
        covered = min(end - begin, self._window)
        hour = self._hours.get(key, Hour())
        sums = hour.total()
        same = sums.digests.get(digest, Counts())
        return Measured(
            job=key.job,
            site=key.site,
            digest=digest,
            at=end,
            window=covered,
            arrivals=sum(item.served + item.errors for item in totals.values()) / covered,
            replicas=reported,
            service_seconds=own.busy / own.served if own.served >= 1 else None,
            latency_p95=quantile(own.latency, 0.95),
            transfer_seconds=own.transfer / own.transfers if own.transfers >= 1 else None,
            samples=int(own.served),
            hour_latency=tuple(sums.latency),
            hour_errors=sums.errors,
            hour_window=max(0.0, end - hour.begun) if len(hour) else 0.0,
            hour_samples=same.served,
            hour_service_seconds=same.busy / same.served if same.served >= 1 else None,
            hour_transfers=same.transfers,
            hour_transfer_seconds=same.transfer / same.transfers if same.transfers >= 1 else None,
            cpu_p95=p95(sums.cpu),
            memory_p95=p95(sums.memory),
            memory_peak=largest(sums.memory),
        )


def _began_anew(before: Page, page: Page) -> bool:
    started = before.started is not None and page.started is not None and abs(page.started - before.started) > SLACK
    fell = before.cpu is not None and page.cpu is not None and page.cpu < before.cpu
    return (
        started
        or fell
        or any(
            page.digests[digest].fell_below(before.digests[digest])
            for digest in page.digests.keys() & before.digests.keys()
        )
    )


def _possible(delta: Counts, span: float) -> bool:
    """Whether an honest pod can have counted so much in `span` seconds; the bounds are far above any real one."""
    requests = delta.served + delta.errors
    return (
        requests <= MOST_PER_SECOND * max(span, 1.0)
        and delta.busy <= LONGEST_REQUEST * max(delta.served, 1.0)
        and delta.transfer <= LONGEST_REQUEST * max(delta.transfers, 1.0)
        and sum(delta.latency) <= delta.served + 1.0
    )


def _overlap(since: float, until: float, begin: float, end: float) -> float:
    """The share of one interval that lies within another."""
    return max(0.0, min(until, end) - max(since, begin)) / (until - since)


def _served_by_most(pods: Iterable[_Pod]) -> str:
    votes = Counter(pod.page.serving for pod in pods if not pod.gone and pod.page is not None and pod.page.serving)
    return min(votes, key=lambda digest: (-votes[digest], digest), default="")
