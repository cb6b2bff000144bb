"""What the Fleet holds of an elastic site."""

from __future__ import annotations

import pytest

from edgeward.fleet.build import BuildSettings, build
from edgeward.fleet.model import Placed
from tests.unit.fleet.objects import DIGEST, NOW, Raw, ago, assignment, fleet, job, node, only_job, pod, release, site

BURST = site("burst", nodes="Elastic", tier="cloud")
HERE = {"edgeward_dev__site": "burst"}
NAME = "signs-burst"


def test_a_site_is_elastic_by_its_object_and_its_nodes_stay_in_the_fleet() -> None:
    found = fleet(nodes=[node("m1", **HERE), node("n1")], sites=[BURST])
    assert {s.name: (s.elastic, s.connected, dict(s.node_labels)) for s in found.sites} == {
        "burst": (True, True, {"edgeward.dev/site": "burst"}),
        "edge": (False, True, {}),
    }
    assert [(n.name, n.site) for n in found.nodes] == [("m1", "burst"), ("n1", "edge")]


def test_a_pool_without_a_node_is_there() -> None:
    (empty,) = fleet(sites=[BURST]).sites
    assert empty.elastic and empty.connected and empty.tier == "cloud"


def test_pods_of_a_pool_are_one_place_with_the_nodes_that_they_are_on() -> None:
    held = assignment({"name": "burst/*", "replicas": 3, "since": ago(300)}, site="burst")
    held["status"] = {"nodes": [{"name": "burst/*", "replicas": 3, "ready": 2}]}
    pods = [
        pod("p1", on="m2", assignment=NAME),
        pod("p2", on="m1", assignment=NAME),
        pod("p3", on=None, assignment=NAME),
    ]
    found = only_job(
        nodes=[node("m1", **HERE), node("m2", **HERE)], pods=pods, sites=[BURST], jobs=[job()], assignments=[held]
    )
    assert found.placed == (
        Placed("burst/*", "burst", 3, 2, started=(NOW - 40, NOW - 40), on=("m1", "m2"), since=NOW - 300),
    )


def test_a_pool_is_not_lost_with_its_nodes() -> None:
    held = assignment({"name": "burst/*", "replicas": 1, "since": ago(300)}, site="burst")
    (only,) = only_job(sites=[BURST], jobs=[job()], assignments=[held]).placed
    assert only.lost_since is None and only.on == ()


def test_pods_that_are_left_at_a_pool_are_leaving() -> None:
    left = only_job(
        nodes=[node("m1", **HERE)],
        pods=[pod("p1", on="m1", assignment=NAME)],
        sites=[BURST],
        jobs=[job()],
        assignments=[assignment(site="burst")],
    )
    assert [(p.node, p.replicas, p.on) for p in left.placed] == [("burst/*", 0, ("m1",))]


@pytest.mark.parametrize(
    ("reason", "age", "out"),
    [
        ("Unschedulable", 61, False),
        ("Unschedulable", 599, False),
        ("Unschedulable", 601, True),
        ("CrashLoopBackOff", 61, True),
    ],
)
def test_a_pod_that_waits_for_its_pool_has_more_time(reason: str, age: int, out: bool) -> None:
    report: Raw = {"name": "burst/*", "replicas": 1, "ready": 0, "reason": reason, "message": "x", "since": ago(age)}
    held = assignment({"name": "burst/*", "replicas": 1}, site="burst", status={"nodes": [report]})
    parts: Raw = {
        "nodes": [],
        "pods": [],
        "releases": [release(digest=DIGEST)],
        "sites": [BURST],
        "assignments": [held],
    }
    (found,) = build(now=NOW, jobs=[job()], **parts).jobs
    assert [e.node for e in found.exclusions] == (["burst/*"] if out else [])
    if out:
        (first,) = found.exclusions
        assert first.until == NOW + (600 if reason == "Unschedulable" else 60)
    patient = BuildSettings(pool_patience=2000, refused_after=2000)
    assert not build(now=NOW, jobs=[job()], settings=patient, **parts).jobs[0].exclusions
