"""How the pods of a node are changed, by what its Deployment and its pods say."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.agent import surge
from edgeward.agent.surge import Way
from edgeward.api.common import format_time
from tests.unit.fleet.objects import NOW, Raw

FULL = "0/1 nodes are available: 1 Insufficient cpu."
REVISION = "r2"


def deployment(*, through: bool = False, in_place: bool = False, revision: str = REVISION, replicas: int = 1) -> Raw:
    status = {
        "observedGeneration": 3,
        "replicas": replicas + (not through),
        "updatedReplicas": replicas if through else 1,
    }
    if replicas == 1 and not through:
        status["updatedReplicas"] = 1
    return {
        "metadata": {
            "name": "signs-1",
            "namespace": "shop",
            "generation": 3,
            "labels": {"edgeward.dev/placement": "signs-1", "edgeward.dev/assignment": "signs-edge"},
            "annotations": {"edgeward.dev/pod-revision": revision},
        },
        "spec": {
            "replicas": replicas,
            "strategy": surge.IN_PLACE if in_place else surge.SURGE,
            "template": {
                "spec": {
                    "affinity": {"a": 1},
                    "containers": [
                        {
                            "name": "runtime",
                            "image": "new",
                            "imagePullPolicy": "Always",
                            "resources": {"requests": {"cpu": "2"}},
                        },
                        {"name": "helper", "image": "side"},
                    ],
                    "initContainers": [{"name": "again", "image": "side"}],
                    "volumes": [{"name": "v"}],
                    "securityContext": {"runAsNonRoot": True},
                }
            },
        },
        "status": status,
    }


def waiting(since: float, message: str = FULL, **meta: Any) -> Raw:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": message,
        "lastTransitionTime": format_time(NOW - since),
    }
    return {"metadata": {"name": "p", **meta}, "status": {"conditions": [condition]}}


def pull(*states: Raw, revision: str = REVISION, **meta: Any) -> Raw:
    return {
        "metadata": {"annotations": {"edgeward.dev/pod-revision": revision}, **meta},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        "status": {"containerStatuses": list(states)},
    }


def way(present: Raw | None, *pods: Raw, **more: Any) -> tuple[Way, float | None]:
    known: dict[str, Any] = {"pulls": (), "recreate": False, "spare": False, "turn": True}
    return surge.way(present=present, revision=REVISION, pods=pods, now=NOW, patience=60.0, **{**known, **more})


HERE = {"imageID": "sha256:1", "state": {"waiting": {"reason": "ContainerCreating"}}}


def test_a_surge_as_long_as_there_is_room_or_one_may_come() -> None:
    assert way(None, waiting(500), spare=True) == (Way.SURGE, None)
    assert way(deployment(through=True), spare=True, recreate=True) == (Way.SURGE, None)
    assert way(deployment(revision="r1"), waiting(500), spare=True) == (Way.SURGE, None), "not even told yet"
    assert way(deployment(), spare=True, recreate=True) == (Way.SURGE, None), "it starts"
    assert way(deployment(), waiting(20), spare=True, recreate=True) == (Way.SURGE, NOW + 40)
    assert way(deployment(), waiting(500, "0/1 nodes match the node selector"), spare=True)[0] is Way.SURGE
    assert way(deployment(), waiting(500, deletionTimestamp="x"), spare=True)[0] is Way.SURGE
    assert way(deployment(), waiting(500)) == (Way.SURGE, None), "it waits, and nobody looks again for nothing"


def test_in_its_place_while_a_spare_serves() -> None:
    assert way(deployment(), waiting(60), spare=True) == (Way.IN_PLACE, None)
    assert way(deployment(), waiting(60), spare=True, turn=False) == (Way.SURGE, None), "another is in its gap"


def test_in_its_place_once_the_image_is_there() -> None:
    stuck = waiting(120)
    assert way(deployment(), waiting(70), recreate=True) == (Way.SURGE, NOW + 50), "a spare may come"
    assert way(deployment(), stuck, recreate=True)[0] is Way.PULL
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
    for pods in ([], [pull()], [pull(HERE)], [pull(HERE, pulling)], [pull(HERE, HERE, revision="r1")]):
        assert way(deployment(), stuck, recreate=True, pulls=pods)[0] is Way.PULL
    gone = pull(HERE, HERE, deletionTimestamp="x")
    assert way(deployment(), stuck, recreate=True, pulls=[gone])[0] is Way.PULL
    for state in (
        HERE,
        {"state": {"terminated": {}}},
        {"state": {"running": {}}},
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}},
    ):
        assert way(deployment(), stuck, recreate=True, pulls=[pull(HERE, state)])[0] is Way.IN_PLACE
    assert way(deployment(), stuck, recreate=True, pulls=[pull(HERE, HERE)], turn=False)[0] is Way.PULL


def test_what_has_begun_in_place_ends_in_place() -> None:
    assert way(deployment(in_place=True))[0] is Way.IN_PLACE
    assert way(deployment(in_place=True, through=True))[0] is Way.SURGE, "the next change begins as all do"
    assert way(deployment(in_place=True, revision="r1"))[0] is Way.SURGE, "another change begins anew"


@pytest.mark.parametrize(
    ("status", "through"),
    [
        ({}, False),
        ({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}, False),
        ({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 1}, False),
        ({"observedGeneration": 3, "replicas": 1}, False),
        ({"observedGeneration": 3, "replicas": 1, "updatedReplicas": 1}, True),
    ],
)
def test_when_a_change_is_through(status: Raw, through: bool) -> None:
    assert surge.is_through({**deployment(), "status": status}) is through


def test_what_pulls_asks_for_nothing_but_the_images_and_nobody_counts_it() -> None:
    body = surge.pulling(deployment(), assignment="signs-edge", revision=REVISION)
    assert body["metadata"]["name"] == "signs-1-pull"
    assert body["metadata"]["labels"] == {"edgeward.dev/assignment": "signs-edge"}, "it goes with its Assignment"
    pod = body["spec"]["template"]
    assert pod["metadata"]["labels"] == {"edgeward.dev/pull": "signs-edge", "edgeward.dev/placement": "signs-1-pull"}
    assert body["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert [(one["image"], one.get("imagePullPolicy")) for one in pod["spec"]["containers"]] == [
        ("new", "Always"),
        ("side", None),
    ]
    assert all(one["resources"] == {"requests": {"cpu": "0", "memory": "0"}} for one in pod["spec"]["containers"])
    assert "volumes" not in pod["spec"] and pod["spec"]["affinity"] == {"a": 1}


def serves(since: float = 900.0, status: str = "True") -> Raw:
    condition = {"type": "Ready", "status": status, "lastTransitionTime": format_time(NOW - since)}
    return {"metadata": {"name": "old"}, "status": {"conditions": [condition]}}


def test_pods_that_serve_nothing_make_room_for_those_that_mend_them() -> None:
    """A full node with a broken pod: what would mend it waited for room beside it for ever."""
    assert way(deployment(), waiting(60), serves(status="False")) == (Way.IN_PLACE, None)
    assert way(deployment(), waiting(20), serves(status="False")) == (Way.SURGE, NOW + 40)
    assert way(deployment(), waiting(60), serves()) == (Way.SURGE, None), "this one serves"
    assert way(deployment(), waiting(60), serves(), serves(status="False")) == (Way.SURGE, None)
    assert way(deployment(), waiting(60), serves(since=20, status="False")) == (Way.SURGE, NOW + 40), "a hiccup"


def test_a_node_that_takes_no_pod_more_cannot_pull_first() -> None:
    """At its limit of pods a node takes none that pulls either: the change waited for ever."""
    full = "0/1 nodes are available: 1 Too many pods."
    stuck = waiting(300, full)
    puller = {**waiting(60, full), "spec": {"containers": [{"name": "a"}]}}
    puller["metadata"]["annotations"] = {"edgeward.dev/pod-revision": REVISION}
    early = {**puller, "status": waiting(20, full)["status"]}
    assert way(deployment(), stuck, serves(), recreate=True, pulls=[puller])[0] is Way.IN_PLACE
    assert way(deployment(), stuck, serves(), recreate=True, pulls=[early]) == (Way.PULL, NOW + 40)
