"""Gates as the hub publishes them: what sites are to report, what they check by themselves, where they go back to, and
that a decision is remembered before anybody is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import ASSIGNMENTS, MODEL_RELEASES, Object, Resource
from edgeward.fleet.model import Answer, Live, Sample
from edgeward.hub.hub import WATCHED, Hub, HubSettings
from edgeward.rollout.model import Question
from tests.fakes import FakeClient
from tests.unit.fleet.objects import DIGEST, NOW, OTHER, Raw, ago, assignment, job, node, release

SOURCES = ["https://models/m"]
NEW = {"name": "m", "version": "1.0", "digest": DIGEST, "sources": SOURCES}
OLD = {"name": "m", "version": "0.9", "digest": OTHER, "sources": ["https://models/old"]}
FINISHED = [{"version": "0.9", "digest": OTHER, "sources": ["https://models/old"], "finished": ago(900)}]
ERRORS = {"name": "errors", "builtin": "ErrorRate", "max": "0.05", "interval": "20s", "initialDelay": "30s"}
OWN = {"name": "own", "query": 'x{site="{{site}}",v="{{version}}"}', "max": "1", "compare": "Baseline"}
CENTRAL = {"name": "central", "query": 'y{site=~"{{site}}"}', "max": "1", "evaluateAt": "Hub", "interval": "5s"}
WAVES = {"waves": [{"name": "canary", "sites": {"names": ["a"]}, "bake": "10m"}, {"name": "all"}]}


class Api(FakeClient):
    """Takes every write but those of `refusing`, and keeps them in order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()
        self.version = 1000
        self.written: list[tuple[Resource, Object]] = []
        self.refusing: Resource | None = None

    async def apply(self, resource: Resource, body: Object, *, subresource: str = "", **_: Any) -> Object:
        if resource is self.refusing:
            raise ApiError(409, "Conflict", "edited meanwhile")
        self.written.append((resource, body))
        self.version += 1
        parts = body["metadata"].get("namespace"), body["metadata"]["name"]
        known = self.cache[resource].get("/".join(filter(None, parts))) or {}
        meta = {**known.get("metadata", {}), **body["metadata"], "resourceVersion": str(self.version)}
        return {**known, **body, "metadata": meta}


class Desk:
    """Two sites with a replica each; the release's canary at site a bakes for as long as `baked` says."""

    def __init__(self, *, gates: list[Raw], baked: float = 200, stage: str = "Baking", **spec: Any) -> None:
        self.now = NOW
        self.api = Api()
        rollout = {"target": DIGEST, "phase": stage, "started": ago(300), "members": ["a"]}
        if stage == "Baking":
            rollout["bakingSince"] = ago(baked)
        told = release(gates=gates, rollout=WAVES, status={"rollout": rollout, "history": FINISHED}, **spec)
        objects = {
            "nodes": [node("n1", edgeward_dev__site="a"), node("n2", edgeward_dev__site="b")],
            "inferencejobs": [job("signs", model={"name": "m"}, replicas=1, replicaScope="PerSite")],
            "modelreleases": [told],
            "assignments": [self._site("a", "n1", NEW), self._site("b", "n2", OLD)],
        }
        for resource in WATCHED:
            self.api.cache.add(resource).seed(objects.get(resource.plural, []))
        self.answers: dict[str, Answer] = {}
        self.asked: tuple[Question, ...] = ()
        self.hub = Hub(
            client=self.api,
            cache=self.api.cache,
            settings=HubSettings(),
            recorder=Recorder(self.api, "test"),
            live=lambda: ({name: Live(cpu=Sample(0.2, self.now - 5)) for name in ("n1", "n2")}, ""),
            answers=lambda: self.answers,
            ask=self._ask,
            clock=lambda: self.now,
        )

    def _ask(self, questions: tuple[Question, ...]) -> None:
        self.asked = questions

    @staticmethod
    def _site(site: str, name: str, told: Raw) -> Raw:
        status = {
            "readyReplicas": 1,
            "replicas": 1,
            "nodes": [{"name": name, "replicas": 1, "ready": 1}],
            "models": [{**told, "serving": True, "replicas": 1, "state": "Serving"}],
        }
        del status["models"][0]["sources"]  # type: ignore[attr-defined]
        return assignment({"name": name, "replicas": 1, "since": ago(400)}, site=site, models=[told], status=status)

    def spec(self, site: str) -> Raw:
        raw = self.api.cache[ASSIGNMENTS].get(f"edgeward/signs-{site}")
        assert raw is not None
        return dict(raw["spec"])

    def reports(self, site: str, **counted: Any) -> None:
        raw = self.api.cache[ASSIGNMENTS].get(f"edgeward/signs-{site}")
        assert raw is not None
        self.api.version += 1
        counters = [{"digest": DIGEST, "since": raw["spec"]["watch"]["since"], "at": at(self.now), **counted}]
        meta = {**raw["metadata"], "resourceVersion": str(self.api.version)}
        self.api.cache[ASSIGNMENTS].put({**raw, "metadata": meta, "status": {**raw["status"], "counters": counters}})

    def status(self) -> Raw:
        raw = self.api.cache[MODEL_RELEASES].get("shop/m")
        assert raw is not None
        return dict(raw["status"])

    def passes(self, count: int = 1) -> list[tuple[Resource, Object]]:
        """What was written, in order."""
        self.api.written.clear()

        async def run() -> None:
            for _ in range(count):
                await self.hub.once()

        asyncio.run(run())
        return list(self.api.written)


def at(moment: float) -> str:
    return ago(NOW - moment)


def test_a_wave_that_bakes_is_watched_and_an_idle_hub_writes_nothing() -> None:
    desk = Desk(gates=[ERRORS, OWN], baked=100)
    desk.passes(3)
    watch = desk.spec("a")["watch"]
    assert watch["since"] == ago(70), "what happened while it warmed up does not count"
    assert watch["interval"] == "20s"
    assert watch["queries"] == [{"name": "own", "query": 'x{site="a",v="1.0"}'}]
    others = desk.spec("b")["watch"]
    assert others["queries"] == [{"name": "own", "query": 'x{site="b",v="0.9"}'}], "the old version's, to compare with"
    assert desk.passes(3) == []


def test_only_the_waves_sites_report_when_nothing_is_compared() -> None:
    desk = Desk(gates=[ERRORS])
    desk.passes(2)
    assert "watch" in desk.spec("a") and "watch" not in desk.spec("b")


def test_nobody_watches_any_more_once_the_wave_has_passed() -> None:
    desk = Desk(gates=[ERRORS], baked=595)
    desk.passes(2)
    desk.now += 25
    desk.reports("a", requests=100)
    desk.passes(4)
    assert desk.status()["rollout"]["wave"] == 1
    assert "watch" not in desk.spec("a") and [one["digest"] for one in desk.spec("b")["models"]][:1] == [DIGEST]


def test_once_it_is_out_its_gates_stay_to_be_read_and_nothing_is_written() -> None:
    desk = Desk(gates=[ERRORS, CENTRAL], stage="Done")
    looked = {"name": "errors", "outcome": "Passed", "looks": 1, "passes": 1, "value": "0", "at": ago(60), "samples": 9}
    raw = desk.api.cache[MODEL_RELEASES].get("shop/m")
    assert raw is not None
    finished = [{"version": "1.0", "digest": DIGEST, "sources": SOURCES, "finished": ago(60)}, *FINISHED]
    raw["status"] |= {"gates": [looked], "history": finished}
    desk.passes(3)
    desk.now += 60
    assert desk.passes(3) == [] and desk.asked == ()
    assert [one["outcome"] for one in desk.status()["gates"]] == ["Passed"]
    assert [(one.get("role"), one["version"]) for one in desk.spec("a")["models"]] == [
        ("Stable", "1.0"),
        ("Previous", "0.9"),
    ]


def test_a_new_version_brings_its_checks_and_the_way_back() -> None:
    desk = Desk(gates=[ERRORS, {**ERRORS, "name": "compared", "compare": "Baseline"}, OWN])
    desk.passes(2)
    new, before = desk.spec("a")["models"]
    told = [(gate["name"], gate["builtin"], gate["max"], gate["compare"]) for gate in new["localGates"]]
    assert told == [("errors", "ErrorRate", "0.05", "Absolute"), ("compared", "ErrorRate", "0.05", "Baseline")]
    assert (before["role"], before["version"], before["digest"]) == ("Previous", "0.9", OTHER)
    assert before["sources"] == OLD["sources"]
    (old,) = desk.spec("b")["models"]
    assert not old.get("localGates"), "what serves already is not checked anew"


def test_without_automatic_rollback_no_site_goes_back_by_itself() -> None:
    desk = Desk(gates=[ERRORS], rollback={"automatic": False})
    desk.passes(2)
    assert not desk.spec("a")["models"][0].get("localGates")


def test_it_is_remembered_before_a_site_is_told() -> None:
    desk = Desk(gates=[ERRORS])
    desk.passes(2)
    desk.now += 60
    desk.reports("a", requests=100, errors=50)
    kinds = [resource for resource, _ in desk.passes()]
    assert kinds.index(MODEL_RELEASES) < kinds.index(ASSIGNMENTS)
    assert desk.status()["rollout"]["phase"] == "RolledBack"
    assert [one["digest"] for one in desk.spec("a")["models"]] == [OTHER] and "watch" not in desk.spec("a")


def test_what_cannot_be_remembered_is_not_told() -> None:
    desk = Desk(gates=[ERRORS])
    desk.passes(2)
    desk.now += 60
    desk.reports("a", requests=100, errors=50)
    desk.api.refusing = MODEL_RELEASES
    desk.passes()
    assert desk.spec("a")["models"][0]["digest"] == DIGEST
    desk.api.refusing = None
    desk.hub._writer._refused.forget(("modelreleases", "shop", "m", "status"))
    desk.passes()
    assert desk.spec("a")["models"][0]["digest"] == OTHER


@pytest.mark.parametrize(("value", "phase"), [(0.5, "Baking"), (2.0, "RolledBack")])
def test_the_hubs_own_prometheus_is_asked_and_decides(value: float, phase: str) -> None:
    desk = Desk(gates=[CENTRAL], baked=3)
    desk.passes(2)
    (question,) = desk.asked
    assert question.query == 'y{site=~"a"}' and question.due == NOW + 2
    assert "watch" not in desk.spec("a"), "the site is not asked"
    desk.now += 30
    desk.answers = {question.key: Answer(at=desk.now, value=value, samples=3)}
    desk.passes()
    assert desk.status()["rollout"]["phase"] == phase
    (gate,) = desk.status()["gates"]
    assert gate["query"] == question.query and gate["samples"] == 3


def test_an_unknown_placeholder_is_an_error_that_names_it() -> None:
    desk = Desk(gates=[{**CENTRAL, "query": "y{a='{{shop}}'}"}])
    desk.passes(2)
    assert desk.asked == ()
    (gate,) = desk.status()["gates"]
    assert gate["outcome"] == "Error" and "{{shop}}" in gate["message"] and "{{site}}" in gate["message"]
    assert desk.passes(2) == []
