"""Gates without and with a Prometheus at a real API server: what the sites' runtimes count decides, and nothing else is
written than what the hub asked to be told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from edgeward.metrics.gate import Answered, GateQueries

from .fake_runtimes import FakeRuntime, FakeRuntimes
from .operator_harness import Object, Operator, World, eventually

NAME = "reader"
OLD, NEW = f"sha256:{1:064x}", f"sha256:{2:064x}"
SITES = {"key": "edgeward.dev/site", "operator": "In", "values": ["site-a", "site-b"]}
INTERVAL = 2
AGREES = {"name": "agreement", "builtin": "Agreement", "min": "0.95", "minSamples": 20, "interval": f"{INTERVAL}s"}


def rollout(*, bake: str = "4s", **both: Any) -> dict[str, Any]:
    """Copies are all that a gate of agreement can go by, so they are made in both waves."""
    waves = [{"name": "canary", "sites": {"count": 1}, "bake": bake, **both}, {"name": "all", "bake": "4s", **both}]
    return {"waves": waves}


class Story:
    """A job with a replica at each of two sites, on which version 1 is released."""

    def __init__(self, world: World, namespace: str, runtimes: FakeRuntimes, operator: Operator) -> None:
        self.world, self.namespace, self.runtimes, self.operator = world, namespace, runtimes, operator

    @property
    def release(self) -> Object:
        path = f"/apis/edgeward.dev/v1alpha1/namespaces/{self.namespace}/modelreleases/{NAME}"
        return dict(self.world.api.get(path))

    def ready(self) -> Object:
        found = self.release
        if found.get("status", {}).get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        return next((item for item in found["status"]["conditions"] if item["type"] == "Ready"), {})

    def assignments(self) -> dict[str, Object]:
        return {item["spec"]["site"]: item for item in self.world.assignments(self.namespace, NAME)}

    def canary(self) -> str:
        """The site that has both versions."""
        found = self.assignments().items()
        (site,) = [site for site, item in found if any(one["digest"] == NEW for one in item["spec"]["models"])]
        return site

    def counters(self, site: str) -> Mapping[str, Object]:
        return {item["digest"]: item for item in self.assignments()[site].get("status", {}).get("counters", [])}


@pytest.fixture
def story(replicas: World, namespace: str) -> Iterator[Story]:
    runtimes = FakeRuntimes(replicas, namespace)
    told = Story(replicas, namespace, runtimes, replicas.operator("one").start().await_leading())
    try:
        replicas.job(
            namespace,
            NAME,
            replicas=1,
            replicaScope="PerSite",
            placement={"tiers": ["edge"], "siteSelector": {"matchExpressions": [SITES]}},
        )
        replicas.await_ready(namespace, NAME)
        runtimes.attach(NAME)
        eventually(lambda: told.ready().get("reason") == "Released", what="version 1 released", seconds=60)
        yield told
    finally:
        runtimes.close()


def serving(story: Story, site: str) -> FakeRuntime:
    (pod,) = [
        pod
        for pod in story.world.pods(story.namespace, NAME)
        if pod["metadata"]["labels"]["edgeward.dev/site"] == site and "deletionTimestamp" not in pod["metadata"]
    ]
    return story.runtimes.by_pod[pod["metadata"]["name"]]


def test_a_version_that_disagrees_goes_back_and_nothing_more_is_written(story: Story) -> None:
    world = story.world
    world.release(story.namespace, version="2.0.0", digest=2, rollout=rollout(traffic="0%", mirror=100), gates=[AGREES])
    site = eventually(story.canary, what="a canary", seconds=30)
    runtime = serving(story, site)
    runtime.of(OLD).requests = 1000  # before it is watched, or after: the gate does not ask about it
    eventually(lambda: NEW in story.counters(site), what="the first report", seconds=30)
    begun = time.time()
    runtime.of(NEW).agreed, runtime.of(NEW).differed = 10, 90
    said = eventually(
        lambda: (one := story.ready()).get("reason") == "RolledBack" and one, what="rolled back", seconds=60
    )
    ended = time.time()
    assert "agreement" in said["message"] and "0.1" in said["message"] and "0.95" in said["message"], said["message"]
    (gate,) = story.release["status"]["gates"]
    assert (gate["name"], gate["outcome"], gate["samples"]) == ("agreement", "Failed", 100)
    assert gate["checks"][0]["outcome"] == "Failed" and float(gate["checks"][0]["value"]) == pytest.approx(0.1)
    told = [
        write
        for write in world.writes(since=begun)
        if write.resource == "assignments/status" and write.name == story.assignments()[site]["metadata"]["name"]
    ]
    assert len(told) <= (ended - begun) / INTERVAL + 3, "a report an interval, and what else became of the site"

    def unwatched() -> bool:
        return all(
            "watch" not in item["spec"] and not {"counters", "gates"} & item["status"].keys()
            for item in story.assignments().values()
        )

    eventually(unwatched, what="nobody watches any more", seconds=20)


def test_a_good_version_passes_and_another_agent_goes_on_counting(story: Story) -> None:
    world = story.world
    gates = [AGREES | {"count": 3, "consecutiveSuccessLimit": 3}]
    world.release(
        story.namespace, version="2.0.0", digest=2, rollout=rollout(traffic="0%", mirror=100, bake="25s"), gates=gates
    )
    site = eventually(story.canary, what="a canary", seconds=30)
    runtime = serving(story, site)
    eventually(lambda: NEW in story.counters(site), what="the first report", seconds=30)
    runtime.of(NEW).agreed = 40

    def copies() -> int:
        histograms = story.counters(site)[NEW]["histograms"]
        return sum(sum(item["counts"]) for item in histograms if item["name"] == "Agreement")

    eventually(lambda: copies() == 40, what="the site told it", seconds=20)
    at = story.counters(site)[NEW]["at"]
    story.operator.kill()
    runtime.of(NEW).agreed = 70  # while nobody looks
    world.operator("two").start().await_leading()
    eventually(lambda: story.counters(site)[NEW]["at"] > at, what="the next agent's report", seconds=30)
    assert copies() == 40, "what nobody saw is lost, nothing comes twice"
    runtime.of(NEW).agreed = 100
    first = eventually(lambda: copies() > 40 and copies(), what="the next agent goes on", seconds=30)
    assert first == 70

    def released() -> bool:
        for each in story.runtimes.by_pod.values():
            each.of(NEW).agreed += 5
        return bool(story.ready().get("reason") == "Released")

    eventually(released, what="version 2 released", seconds=90)
    assert {m["version"] for item in story.assignments().values() for m in item["spec"]["models"]} >= {"2.0.0"}


@pytest.mark.parametrize(
    ("query", "reason", "words"),
    [("vector(0.2)", "RolledBack", "0.2"), ("vector(0.01)", "Released", "")],
)
def test_a_question_to_the_sites_prometheus_decides(story: Story, query: str, reason: str, words: str) -> None:
    gate = {"name": "errors", "query": query, "max": "0.1", "interval": f"{INTERVAL}s"}
    story.world.release(story.namespace, version="2.0.0", digest=2, rollout=rollout(), gates=[gate])
    said = eventually(lambda: (one := story.ready()).get("reason") == reason and one, what=reason, seconds=60)
    assert words in said["message"]
    (told,) = story.release["status"]["gates"]
    assert told["query"] == query and told["outcome"] == ("Failed" if words else "Passed")


def test_a_crash_loop_is_seen_by_its_restarts(story: Story) -> None:
    gate = {"name": "crashes", "builtin": "CrashLoop", "max": "0", "interval": f"{INTERVAL}s"}
    story.world.release(story.namespace, version="2.0.0", digest=2, rollout=rollout(bake="20s"), gates=[gate])
    site = eventually(story.canary, what="a canary", seconds=30)
    eventually(lambda: NEW in story.counters(site), what="the first report", seconds=30)
    runtime = serving(story, site)
    pod = next(name for name, one in story.runtimes.by_pod.items() if one is runtime)
    story.runtimes.restart(pod, restarts=1)
    said = eventually(
        lambda: (one := story.ready()).get("reason") == "RolledBack" and one, what="rolled back", seconds=60
    )
    assert "crashes" in said["message"]


def test_what_a_real_prometheus_says_to_a_question(world: World) -> None:
    node = world.exporter.nodes()[0]
    eventually(lambda: world.prometheus.cores(node) is not None, what="some scrapes")

    async def ask(*texts: str) -> list[Answered]:
        queries = GateQueries(url=world.prometheus.url, step=1)
        try:
            now = time.time()
            return [await queries.ask(text, since=now - 5, now=now) for text in texts]
        finally:
            queries.close()

    memory = f'container_memory_working_set_bytes{{node="{node}"}}'
    answers = asyncio.run(
        ask(memory, "container_memory_working_set_bytes", 'up{job="nobody"}', "sum(up", "vector(0) / 0")
    )
    one, several, nothing, wrong, undefined = answers
    assert one.value == 256 * 2**20 and 1 <= one.samples <= 6 and one.error == ""
    assert "series" in several.error and several.value is None
    assert nothing == undefined == Answered()
    assert "parse error" in wrong.error
