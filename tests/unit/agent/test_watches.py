"""When counters are reported, and what a gate's question came to: one write an interval, and none without a watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edgeward.agent.watches import NO_PROMETHEUS, Watches
from edgeward.api.assignment import Assignment
from edgeward.api.common import format_time, parse, parse_time
from edgeward.metrics.gate import Answered
from tests.unit.fleet.objects import Raw, assignment

from .test_counters import NEW, OLD, answer, counted

SINCE = "2027-01-01T00:00:00Z"
BEGIN = parse_time(SINCE)


class Prometheus:
    """Answers what a test says, when it says so."""

    def __init__(self, *answers: Answered) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, float, float]] = []
        self.hangs: asyncio.Event | None = None

    async def ask(self, query: str, *, since: float, now: float) -> Answered:
        self.asked.append((query, since - BEGIN, now - BEGIN))
        if self.hangs is not None:
            await self.hangs.wait()
        return self.answers.pop(0)


class Site:
    """One Assignment with one pod, and a clock that stands."""

    def __init__(self, prometheus: Prometheus | None = None, *, status: Raw | None = None, **watch: Any) -> None:
        self.now, self.news = BEGIN, 0
        self.watch: Raw | None = {"since": SINCE, "interval": "10s", **watch}
        self.kept = status or {}
        self.watches = Watches(news=self._note, clock=lambda: self.now, prometheus=prometheus)

    def _note(self, name: str) -> None:
        self.news += 1

    @property
    def raw(self) -> Raw:
        models = [{"name": "m", "version": "1", "digest": OLD}, {"name": "m", "version": "2", "digest": NEW}]
        found = assignment({"name": "n1", "replicas": 1}, models=models)
        spec = found["spec"] | ({"watch": self.watch} if self.watch else {})
        return {**found, "spec": spec, "status": self.kept}

    async def look(self, requests: int, *, after: float = 0.0, restarts: int = 0) -> None:
        self.now += after
        pod = {"metadata": {"uid": "p"}, "status": {"containerStatuses": [{"restartCount": restarts, "state": {}}]}}
        self.watches.look(self.raw, [pod], {"p": answer((NEW, counted(requests)))})
        for _ in range(10):
            await asyncio.sleep(0)  # what it began runs to its end, or to what hangs

    def status(self) -> Raw:
        return self.watches.status(parse(Assignment, self.raw))

    def requests(self) -> list[int]:
        return [item["requests"] for item in self.status().get("counters", [])]


def run(story: Callable[[], Any]) -> None:
    asyncio.run(story())


def test_counters_are_told_once_an_interval_and_go_with_the_watch() -> None:
    async def story() -> None:
        site = Site()
        await site.look(0)
        assert site.status() == {} and site.news == 0, "nothing was counted yet"
        for requests in range(1, 10):
            await site.look(requests, after=1)
        assert (site.status(), site.news) == ({}, 0)
        assert site.watches.due(site.raw["metadata"]["name"]) == BEGIN + 10
        await site.look(10, after=1)
        assert (site.requests(), site.news) == ([10], 1)
        (told,) = site.status()["counters"]
        assert (told["since"], told["at"]) == (SINCE, format_time(BEGIN + 10))
        for requests in range(11, 20):
            await site.look(requests, after=1)
        assert (site.requests(), site.news) == ([10], 1), "a write an interval"
        await site.look(20, after=1)
        assert (site.requests(), site.news) == ([20], 2)
        await site.look(20, after=10)
        assert site.news == 3 and site.status()["counters"][0]["at"] == format_time(BEGIN + 30)
        site.watch = None
        await site.look(21, after=10)
        assert (site.status(), site.news, site.watches.due(site.raw["metadata"]["name"])) == ({}, 3, None)

    run(story)


def test_a_moment_to_come_is_waited_for() -> None:
    """The end of a gate's warm-up: what happens before it is not counted."""

    async def story() -> None:
        site = Site()
        site.now = BEGIN - 20
        await site.look(5)
        assert site.watches.due(site.raw["metadata"]["name"]) == BEGIN and not site.watches.new(site.raw)
        await site.look(100, after=15)
        await site.look(120, after=5)
        await site.look(150, after=10)
        assert (site.requests(), site.news) == ([30], 1)

    run(story)


def test_another_moment_begins_at_zero_and_keeps_nothing_of_the_one_before() -> None:
    async def story() -> None:
        site = Site()
        await site.look(0)
        await site.look(50, after=10)
        site.kept = site.status()
        assert not site.watches.new(site.raw)
        site.watch = {"since": format_time(BEGIN + 10), "interval": "10s"}
        assert site.watches.new(site.raw), "counting begins at once"
        assert site.status() == {}, "what was counted from another moment says nothing"
        await site.look(50)
        await site.look(57, after=10)
        assert site.requests() == [7]

    run(story)


def test_an_agent_that_begins_anew_goes_on_from_what_was_told() -> None:
    async def story() -> None:
        first = Site()
        await first.look(0)
        await first.look(50, after=10)
        second = Site(status=first.status())
        second.now = BEGIN + 15
        assert second.requests() == [50], "it stands until more is known"
        await second.look(60)
        assert (second.requests(), second.news) == ([50], 0)
        await second.look(65, after=10)
        assert second.requests() == [55]

    run(story)


def test_the_interval_may_change_while_it_is_watched() -> None:
    async def story() -> None:
        site = Site(interval="1h")
        await site.look(0)
        site.watch = {"since": SINCE, "interval": "5s"}
        await site.look(3, after=1)
        await site.look(4, after=5)
        assert site.requests() == [4]
        site.watch = {"since": SINCE, "interval": "0s"}
        await site.look(5, after=0.5)
        assert site.requests() == [4], "not more than once a second, whatever is asked"
        await site.look(6, after=1)
        assert site.requests() == [6]

    run(story)


QUERY = {"name": "errors", "query": "up{v='2'}", "baselineQuery": "up{v='1'}"}


def test_the_sites_prometheus_is_asked_about_both_versions_over_the_same_time() -> None:
    async def story() -> None:
        prometheus = Prometheus(Answered(value=1.25, samples=4), Answered(value=1.0, samples=4))
        site = Site(prometheus, queries=[QUERY])
        await site.look(0)
        assert prometheus.asked == []
        await site.look(5, after=10)
        assert prometheus.asked == [("up{v='2'}", 0, 10), ("up{v='1'}", 0, 10)]
        at = format_time(BEGIN + 10)
        assert site.status()["gates"] == [
            {"name": "errors", "at": at, "value": "1.25", "baseline": "1", "samples": 4, "error": ""}
        ]
        assert (site.requests(), site.news) == ([5], 1), "one write tells both"

    run(story)


@pytest.mark.parametrize("away", [True, False])
def test_what_cannot_be_asked_says_why_and_the_counters_are_told_all_the_same(away: bool) -> None:
    async def story() -> None:
        prometheus = Prometheus(Answered(error="Prometheus at http://p cannot be reached")) if away else None
        site = Site(prometheus, queries=[QUERY])
        await site.look(0)
        await site.look(5, after=10)
        (told,) = site.status()["gates"]
        assert told["error"] == ("Prometheus at http://p cannot be reached" if away else NO_PROMETHEUS)
        assert "value" not in told and "baseline" not in told and site.requests() == [5]

    run(story)


def test_a_prometheus_that_hangs_holds_nothing_up_and_is_not_asked_again_meanwhile() -> None:
    async def story() -> None:
        prometheus = Prometheus(*[Answered(value=1.0, samples=1)] * 4)
        prometheus.hangs = asyncio.Event()
        site = Site(prometheus, queries=[QUERY])
        await site.look(0)
        await site.look(5, after=10)
        await site.look(8, after=10)
        assert len(prometheus.asked) == 1 and site.status() == {}
        assert site.watches.due(site.raw["metadata"]["name"]) == site.now + 10, "nobody asks the runtimes without pause"
        prometheus.hangs.set()
        await site.look(9, after=1)
        assert site.requests() == [9] and site.status()["gates"][0]["value"] == "1"
        prometheus.hangs.clear()
        await site.look(9, after=10)
        site.watch = None
        await site.look(9, after=1)
        prometheus.hangs.set()
        await site.look(9, after=1)
        assert (site.status(), site.news) == ({}, 1), "nobody wants to know any more"

    run(story)


def test_old_answers_of_gates_do_not_outlive_their_gate_or_their_moment() -> None:
    told = [
        {"name": "errors", "at": format_time(BEGIN + 5), "value": "1"},
        {"name": "gone", "at": format_time(BEGIN + 5), "value": "1"},
        {"name": "late", "at": format_time(BEGIN - 5), "value": "1"},
    ]
    queries = [QUERY, {"name": "late", "query": "up"}]
    site = Site(None, status={"gates": told}, queries=queries)
    assert [item["name"] for item in site.status()["gates"]] == ["errors"]


def test_a_watch_that_cannot_be_read_is_none() -> None:
    async def story() -> None:
        site = Site()
        for odd in ({"since": "yesterday", "interval": "10s"}, {"since": SINCE, "interval": "soon"}, {"since": SINCE}):
            site.watch = odd
            await site.look(1)
            assert site.watches.due(site.raw["metadata"]["name"]) is None
            assert not site.watches.new(site.raw), "nobody asks the runtimes without pause because of it"

    run(story)
