"""A change of a job's pods: what makes one and what does not, by which waves it goes, and what happens without room."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .operator_harness import Operator, World, eventually
from .test_operator_placement import asking, at_site


def template(word: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"annotations": {"word": word}}, **({"spec": spec} if spec else {})}


def words(world: World, namespace: str, job: str) -> list[str]:
    """Of the pods that are ready, from the Deployment's template that each is made from."""
    return sorted(
        (pod["metadata"].get("annotations") or {}).get("word", "")
        for pod in world.pods(namespace, job)
        if "deletionTimestamp" not in pod["metadata"] and is_ready(pod)
    )


def is_ready(pod: dict[str, Any]) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions") or []
    )


def images(world: World, namespace: str) -> set[str]:
    return {
        container["image"]
        for one in world.deployments(namespace)
        for container in one["spec"]["template"]["spec"]["containers"]
    }


def test_an_upgrade_restarts_no_pod_and_the_next_change_brings_what_is_new(replicas: World, namespace: str) -> None:
    world = replicas
    old = world.operator("old", runtime={"image": "runtime:1"}).start().await_leading()
    world.job(namespace, "still", placement=at_site("site-a"), podTemplate=template("one"), replicas=2)
    world.await_ready(namespace, "still")
    pods, begun = world.uids(namespace), time.time()
    old.stop()
    new = world.operator("new", runtime={"image": "runtime:2", "pullPolicy": "Always"}).start().await_leading()
    name = world.deployments(namespace)[0]["metadata"]["name"]
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    world.api.patch(path, {"spec": {"template": {"metadata": {"labels": {"edgeward.dev/site": "elsewhere"}}}}})
    # What somebody does to a template is undone, with what it was; the other Deployment is seen to in the same step.
    eventually(lambda: _label(world.api.get(path)) == "site-a", what="the label is back")
    assert images(world, namespace) == {"runtime:1"}
    untouched = [w for w in world.writes(since=begun, user=new.user) if w.resource == "deployments" and w.name != name]
    assert untouched == [], "the other Deployment was not written"
    eventually(lambda: len(words(world, namespace, "still")) == 2, what="its pods after the repair")
    kept = [uid for pod, uid in pods.items() if not pod.startswith(name)]
    assert kept and set(kept) <= set(world.uids(namespace).values())
    world.job(namespace, "still", placement=at_site("site-a"), podTemplate=template("two"), replicas=2)
    eventually(lambda: words(world, namespace, "still") == ["two", "two"], what="the change", seconds=40)
    assert images(world, namespace) == {"runtime:2"}


def _label(deployment: dict[str, Any]) -> str:
    return str(deployment["spec"]["template"]["metadata"]["labels"]["edgeward.dev/site"])


@contextmanager
def full_nodes(world: World, site: str, count: int) -> Iterator[list[str]]:
    """A site of nodes with 2 cores each."""
    labels = {"edgeward.dev/tier": "edge", "edgeward.dev/site": site}
    names = world.add_nodes(site, count=count, cpu="2", labels=labels)
    try:
        yield names
    finally:
        world.remove_nodes(*names)


def watched(world: World, namespace: str, job: str, until: Callable[[], Any], *, seconds: float, what: str) -> int:
    """The fewest ready pods that were seen until it came true."""
    fewest = 10**6

    def looked() -> Any:
        nonlocal fewest
        fewest = min(fewest, len(words(world, namespace, job)))
        return until()

    eventually(looked, seconds=seconds, what=what, every=0.05)
    return fewest


def test_every_node_is_95_percent_requested(world: World, operator: Operator, namespace: str) -> None:
    with full_nodes(world, "site-full", 2) as names:
        asked = {"placement": at_site("site-full"), "resources": asking("1900m"), "replicas": 2}
        world.job(namespace, "tight", {**asked, "podTemplate": template("one")})
        world.await_ready(namespace, "tight")
        assert world.scheduled_on(namespace, "tight") == names
        pods = world.uids(namespace)

        world.job(namespace, "tight", {**asked, "podTemplate": template("two")})
        ready = world.await_condition(namespace, "tight", "Ready", "False", reason="NoRoomToSurge")
        assert "Insufficient cpu" in ready["message"]
        time.sleep(10)  # longer than anybody is patient here
        assert words(world, namespace, "tight") == ["one", "one"], "nothing broke"
        assert set(pods.items()) <= set(world.uids(namespace).items())
        world.await_condition(namespace, "tight", "Ready", "False", reason="NoRoomToSurge")

        world.job(namespace, "tight", {**asked, "podTemplate": template("two"), "update": "Recreate"})
        fewest = watched(
            world,
            namespace,
            "tight",
            lambda: words(world, namespace, "tight") == ["two", "two"],
            seconds=60,
            what="in their place",
        )
        assert fewest >= 1, "one node after the other"
        world.await_ready(namespace, "tight")
        eventually(
            lambda: [one["metadata"]["name"] for one in world.deployments(namespace) if _pulls(one)] == [],
            what="nothing is left of what brought the images",
        )
        strategies = [one["spec"]["strategy"]["rollingUpdate"] for one in world.deployments(namespace)]
        assert strategies == [{"maxSurge": 1, "maxUnavailable": 0}] * 2
        pulled = [w for w in world.writes() if w.resource == "deployments" and w.name.endswith("-pull")]
        assert {w.verb for w in pulled} >= {"patch", "delete"}, "the images came first"
        world.clear(namespace)


def _pulls(deployment: dict[str, Any]) -> bool:
    return str(deployment["metadata"]["name"]).endswith("-pull")


def test_a_spare_serves_where_another_node_has_room(world: World, operator: Operator, namespace: str) -> None:
    with full_nodes(world, "site-spare", 2) as names:
        asked = {"placement": at_site("site-spare"), "resources": asking("1900m")}
        world.job(namespace, "roomy", {**asked, "podTemplate": template("one")})
        world.await_ready(namespace, "roomy")
        (home,) = world.scheduled_on(namespace, "roomy")
        world.job(namespace, "roomy", {**asked, "podTemplate": template("two")})
        fewest = watched(
            world,
            namespace,
            "roomy",
            lambda: words(world, namespace, "roomy") == ["two"] and world.scheduled_on(namespace, "roomy") == [home],
            seconds=60,
            what="it is at home again",
        )
        assert fewest >= 1, "somebody served all the time"
        (other,) = set(names) - {home}
        spare = [
            node
            for one in world.sent_assignments()
            if one["spec"]["job"]["namespace"] == namespace
            for node in one["spec"].get("nodes") or []
            if node["name"] == other
        ]
        assert spare and all((node.get("replicas", 0), node["leaving"]) == (0, 1) for node in spare)
        world.await_ready(namespace, "roomy")
        world.clear(namespace)


WAVES = {"rollout": {"waves": [{"name": "one", "sites": {"names": ["site-a"]}, "bake": "3s"}, {"name": "all"}]}}


def test_by_the_waves_of_its_release_and_back(world: World, operator: Operator, namespace: str) -> None:
    world.release(namespace, **WAVES)
    asked = {"placement": {"siteSelector": {"matchExpressions": [SITES]}}, "replicaScope": "PerSite"}
    world.job(namespace, "wavy", {**asked, "podTemplate": template("one")})
    world.await_ready(namespace, "wavy")
    eventually(lambda: _remembers(world, namespace)["phase"] == "Done", what="what it began with is remembered")

    world.job(namespace, "wavy", {**asked, "podTemplate": template("two")})
    eventually(lambda: _remembers(world, namespace)["phase"] == "Baking", what="the first wave bakes")
    assert words(world, namespace, "wavy") == ["one", "two"]
    eventually(lambda: words(world, namespace, "wavy") == ["two", "two"], what="the second wave")
    world.await_ready(namespace, "wavy")

    # No node will do: the new pod never comes up, the old one serves, and nobody else is told.
    lost = template("three", nodeSelector={"no-such": "label"})
    world.job(namespace, "wavy", {**asked, "podTemplate": lost})
    ready = world.await_condition(namespace, "wavy", "Ready", "False", reason="RolledBack")
    assert "Unschedulable" in ready["message"]
    world.await_condition(namespace, "wavy", "RolledBack", "True")
    eventually(lambda: _told(world, namespace) == {"site-a": "two", "site-b": "two"}, what="both are told the way back")
    eventually(lambda: words(world, namespace, "wavy") == ["two", "two"], what="and have it")
    told = [one for one in world.sent_assignments() if one["spec"]["job"]["namespace"] == namespace]
    three = {one["spec"]["site"] for one in told if one["spec"]["podTemplate"] == lost}
    assert three == {"site-a"}
    found = {event["reason"] for event in world.events(namespace, "wavy")}
    assert {"PodChangeStarted", "PodChangeCompleted", "WaveStarted", "WavePassed", "RolledBack"} <= found
    # It stays so, with nothing written, until the spec asks for something else.
    time.sleep(5)
    assert _remembers(world, namespace)["phase"] == "RolledBack"
    world.job(namespace, "wavy", {**asked, "podTemplate": template("two")})
    world.await_ready(namespace, "wavy")


SITES = {"key": "edgeward.dev/site", "operator": "In", "values": ["site-a", "site-b"]}


def _remembers(world: World, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = world.get_job(namespace, "wavy")["status"]["podRollout"]
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def _told(world: World, namespace: str) -> dict[str, str]:
    return {
        one["spec"]["site"]: one["spec"]["podTemplate"]["metadata"]["annotations"]["word"]
        for one in world.assignments(namespace, "wavy")
    }
