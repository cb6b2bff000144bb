"""What the hub asked to be told while it watches the models of an Assignment (spec.watch), and when it is told next.

Between two reports the runtimes are looked at as often as otherwise; a report is what was known at its time, so there is
one write an interval and no more. Where nothing was counted it is written all the same, with its new time: no restart
and no request is an answer too, and an old report is not taken for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeward.api.assignment import Assignment, Counters, QueryResult, Watch
from edgeward.api.common import ApiError, format_time, parse_time, to_dict
from edgeward.api.quantity import seconds
from edgeward.cluster.resources import Object
from edgeward.metrics.gate import Answered

from .counters import Looked, Tally

log = logging.getLogger(__name__)
SHORTEST = 1.0
"""seconds between two reports, whatever the hub asks"""
NO_PROMETHEUS = "no Prometheus is configured at this site"


class Asks(Protocol):
    """metrics.gate.GateQueries"""

    async def ask(self, query: str, *, since: float, now: float) -> Answered: ...


@dataclass(slots=True)
class _Watched:
    watch: Watch
    tally: Tally | None = None
    """None until its time has come: the hub may name a moment to come, the end of a warm-up"""
    due: float = 0.0
    counters: list[dict[str, Any]] | None = None
    """as told last; None: nothing was told yet"""
    gates: list[dict[str, Any]] = field(default_factory=list)
    telling: asyncio.Task[None] | None = None


class Watches:
    def __init__(self, *, news: Callable[[str], None], clock: Callable[[], float], prometheus: Asks | None) -> None:
        """news: told of an Assignment about which there is something to report. prometheus: that of the site."""
        self._news = news
        self._clock = clock
        self._prometheus = prometheus
        self._watched: dict[str, _Watched] = {}

    def due(self, name: str) -> float | None:
        """When the runtimes have to be looked at again; None: nobody watches."""
        watched = self._watched.get(name)
        return watched.due if watched else None

    def new(self, assignment: Object) -> bool:
        """Whether counting has not begun: it does with the next look, so that should be now."""
        asked = (assignment.get("spec") or {}).get("watch")
        watched = self._watched.get(assignment["metadata"]["name"])
        if asked is None or (watched is not None and watched.watch.since == asked.get("since")):
            return False
        return _watch(assignment) is not None

    def forget(self, name: str) -> None:
        watched = self._watched.pop(name, None)
        if watched is not None and watched.telling is not None:
            watched.telling.cancel()

    def close(self) -> None:
        for name in list(self._watched):
            self.forget(name)

    def look(self, raw: Object, pods: Iterable[Object], answers: Mapping[str, Object]) -> bool:
        """A look at the runtimes of an Assignment. pods: all that it has; answers: of this look, by uid. Whether it is
        what is reported, or nobody watches."""
        name = raw["metadata"]["name"]
        watch = _watch(raw)
        if watch is None:
            if raw["spec"].get("watch"):
                log.error("assignment %s: its watch cannot be read", name)
            self.forget(name)
            return True
        watched = self._watched.get(name)
        if watched is None or watched.watch.since != watch.since:
            self.forget(name)
            watched = self._watched[name] = _Watched(watch=watch)
        watched.watch = watch
        now, begin, wanted = self._clock(), parse_time(watch.since), _wanted(raw)
        if watched.tally is None:
            if now < begin:
                watched.due = begin
                return False
            watched.tally, watched.due = Tally(resumed=_reported(raw, watch)), now + _interval(watch)
        watched.due = min(watched.due, now + _interval(watch))
        watched.tally.look((looked(pod, answers) for pod in pods), at=now, wanted=wanted)
        if now < watched.due:
            return False
        watched.due = now + _interval(watch)
        if watched.telling is None or watched.telling.done():
            watched.telling = asyncio.create_task(self._tell(name, watched, watched.tally, wanted))
        return True

    def status(self, assignment: Assignment) -> dict[str, Any]:
        """What belongs into the status of it besides the rest; nothing while nobody watches."""
        watch = assignment.spec.watch
        if watch is None:
            return {}
        watched = self._watched.get(assignment.name)
        if watched is not None and watched.watch.since == watch.since and watched.counters is not None:
            counters, gates = watched.counters, watched.gates
        else:
            # An agent before this one has told it, and it still holds; about another moment nothing is known yet.
            since, named = parse_time(watch.since), {query.name for query in watch.queries}
            counters = [to_dict(item) for item in _same(assignment.status.counters, watch)]
            gates = [
                to_dict(item) for item in assignment.status.gates if item.name in named and parse_time(item.at) >= since
            ]
        return {**({"counters": counters} if counters else {}), **({"gates": gates} if gates else {})}

    async def _tell(self, name: str, watched: _Watched, tally: Tally, wanted: tuple[str, ...]) -> None:
        now, watch = self._clock(), watched.watch
        gates = await asyncio.gather(*(self._ask(query, watch, now) for query in watch.queries))
        counters = [{**item, "since": watch.since} for item in tally.counters(first=wanted)]
        if self._watched.get(name) is watched and (counters, gates) != (watched.counters, watched.gates):
            watched.counters, watched.gates = counters, list(gates)
            self._news(name)

    async def _ask(self, query: Any, watch: Watch, now: float) -> dict[str, Any]:
        since = parse_time(watch.since)
        answer, before = await self._answer(query.query, since, now), None
        if query.baseline_query is not None and not answer.error:
            before = await self._answer(query.baseline_query, since, now)
        return to_dict(
            QueryResult(
                name=query.name,
                at=format_time(now),
                value=_text(answer.value),
                baseline=_text(before.value) if before else None,
                samples=answer.samples,
                error=(answer.error or (before.error if before else ""))[:1024],
            )
        )

    async def _answer(self, query: str, since: float, now: float) -> Answered:
        if self._prometheus is None:
            return Answered(error=NO_PROMETHEUS)
        return await self._prometheus.ask(query, since=min(since, now), now=now)


def _watch(raw: Object) -> Watch | None:
    """Of an Assignment as it came from the API, which has checked it; None also for one of a newer hub that cannot be
    read: then the rest of the report goes on."""
    asked = raw["spec"].get("watch")
    try:
        if not asked:
            return None
        watch = Watch.model_validate(asked)
        parse_time(watch.since)
        seconds(watch.interval)
    except (ApiError, ValueError):
        return None
    return watch


def _interval(watch: Watch) -> float:
    return max(SHORTEST, seconds(watch.interval))


def _wanted(raw: Object) -> tuple[str, ...]:
    return tuple(model["digest"] for model in raw["spec"].get("models") or [] if model.get("role") != "Previous")


def _reported(raw: Object, watch: Watch) -> list[Counters]:
    try:
        told = [Counters.model_validate(item) for item in (raw.get("status") or {}).get("counters") or []]
    except ValueError:
        return []
    return _same(told, watch)


def _same(counters: Iterable[Counters], watch: Watch) -> list[Counters]:
    since = parse_time(watch.since)
    return [item for item in counters if item.since is not None and parse_time(item.since) == since]


def looked(pod: Object, answers: Mapping[str, Object]) -> Looked:
    states = pod.get("status", {}).get("containerStatuses") or []
    return Looked(
        uid=pod["metadata"]["uid"],
        running=any("running" in (item.get("state") or {}) or item.get("restartCount") for item in states),
        restarts=sum(int(item.get("restartCount") or 0) for item in states),
        answer=answers.get(pod["metadata"]["uid"]),
    )


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.12g}"
