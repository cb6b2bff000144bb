"""An elastic site from the Fleet to its Assignment, and what is said of it."""

from __future__ import annotations

from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.site import Site as SiteObject
from edgeward.fleet.model import Fleet
from edgeward.hub.publish import Published, publish
from edgeward.hub.site_status import site_status
from edgeward.hub.status import pod_selector
from edgeward.placement import Plan, plan
from edgeward.rollout.step import step
from tests.unit.fleet.objects import Raw, assignment, fleet, job, node, release, site

BURST = site("burst", nodes="Elastic", tier="cloud", nodeSelector={"pool": "burst"})


def member(name: str, **labels: str) -> Raw:
    return node(name, tier=None, pool="burst", **labels)


def decided(raw: Raw, *present: Raw, nodes: list[Raw], sites: list[Raw] | None = None) -> tuple[Fleet, Plan, Published]:
    seen = fleet(
        nodes=nodes, jobs=[raw], releases=[release()], sites=[BURST] if sites is None else sites, assignments=present
    )
    made = plan(seen)
    said = publish(
        seen,
        made,
        step(seen),
        jobs={"shop/signs": parse(InferenceJob, raw)},
        present=[parse(Assignment, item) for item in present],
        namespace="edgeward",
    )
    return seen, made, said


def nodes_of(said: Published) -> dict[str, Any]:
    return {write.body["spec"]["site"]: write.body["spec"]["nodes"] for write in said.writes}


def test_a_pool_is_told_by_the_labels_that_the_site_and_the_job_name() -> None:
    raw = job(replicas=2, placement={"nodeSelector": {"disk": "ssd"}})
    _, _, said = decided(raw, nodes=[member("m1", disk="ssd")])
    (entry,) = nodes_of(said)["burst"]
    assert (entry["name"], entry["replicas"]) == ("burst/*", 2)
    assert entry["pool"] == {"labels": {"disk": "ssd", "pool": "burst"}, "architectures": ["amd64", "arm64"]}
    (write,) = said.writes
    assert write.body["metadata"]["labels"]["edgeward.dev/tier"] == "cloud"


def test_what_is_so_already_is_not_written_again_whatever_nodes_come_and_go() -> None:
    raw = job(replicas=2)
    (write,) = decided(raw, nodes=[member("m1")])[2].writes
    there = {"apiVersion": "edgeward.dev/v1alpha1", "kind": "Assignment", **write.body}
    there["metadata"] |= {"uid": "u", "resourceVersion": "1", "generation": 1}
    there["status"] = {"nodes": [{"name": "burst/*", "replicas": 2, "ready": 1}]}
    for nodes in ([member("m1")], [member("m2"), member("m3")], []):
        assert decided(raw, there, nodes=nodes)[2] == Published()


def test_a_site_that_turns_fixed_keeps_its_pool_until_the_nodes_serve() -> None:
    pool = {"labels": {"pool": "burst"}, "architectures": ["amd64"]}
    told = assignment({"name": "burst/*", "replicas": 1, "pool": pool}, site="burst")
    told["status"] = {"nodes": [{"name": "burst/*", "replicas": 1, "ready": 1}], "replicas": 1, "readyReplicas": 1}
    fixed = site("burst", tier="cloud", nodeSelector={"pool": "burst"})
    _, _, said = decided(job(), told, nodes=[member("m1")], sites=[fixed])
    old, new = nodes_of(said)["burst"]
    assert (old["name"], old["replicas"], old["leaving"], old["pool"]) == ("burst/*", 0, 1, pool)
    assert (new["name"], new["replicas"]) == ("m1", 1)


def test_a_pool_without_nodes_is_connected() -> None:
    seen, made, _ = decided(job(replicas=0), nodes=[])
    told = to_dict(site_status(parse(SiteObject, BURST), plan=made, fleet=seen, overlaps=(), version="1"))
    kinds = {item["type"]: (item["status"], item["reason"]) for item in told["conditions"]}
    assert kinds["Connected"] == ("True", "Local") and kinds["MetricsFresh"][0] == "True"
    assert told["counts"]["nodes"] == 0


def test_the_selector_of_a_job_that_counts_per_site_matches_no_pod() -> None:
    """An autoscaler takes the pods' mean for one number and writes it back as the number of each site."""
    assert pod_selector("signs", ["in-cluster"], per_site=True) == "edgeward.dev/job=signs,!edgeward.dev/job"
