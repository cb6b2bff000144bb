"""From raw objects to a Fleet: units, what counts as whose, and that one bad object spoils nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.amounts import DEFAULT_REQUEST, pod_request
from edgeward.fleet.build import build
from edgeward.fleet.model import Live, Resources, Sample, Taint
from edgeward.placement.plan import plan

from .objects import DIGEST, NOW, OTHER, Raw, ago, assignment, fleet, job, node, only_job, pod, release, site

MI = 1 << 20


def only_node(**parts: Any) -> Any:
    (found,) = fleet(**parts).nodes
    return found


# Nodes ---------------------------------------------------------------------------------------------------------------


def test_a_node_in_units() -> None:
    raw = node()
    raw["spec"] = {
        "unschedulable": True,
        "taints": [
            {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        ],
    }
    live = {"n1": Live(cpu=Sample(1.5, NOW - 3))}
    found = only_node(nodes=[raw], live=live)
    assert found.allocatable == Resources(4000, 8 << 30, 110)
    assert found.taints == (Taint("gpu", "yes", "NoSchedule"),)
    assert (found.unschedulable, found.ready, found.live, found.arch) == (True, True, live["n1"], "amd64")


def test_pressure_is_a_taint_that_the_scheduler_heeds_and_so_must_a_plan() -> None:
    """Only what the Fleet says in fields of its own (not ready, unreachable, cordoned) is left out of the taints."""
    raw = node()
    raw["spec"] = {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}
    assert only_node(nodes=[raw]).taints == (Taint("node.kubernetes.io/disk-pressure", "", "NoSchedule"),)


def test_a_node_without_a_live_figure_is_unknown() -> None:
    assert only_node(nodes=[node()]).live == Live()


@pytest.mark.parametrize(("pods", "count"), [("110", 110), (110, 110), ("1k", 1000), ("2500", 2500)])
def test_the_api_writes_a_thousand_pods_as_1k(pods: object, count: int) -> None:
    raw = node()
    raw["status"]["allocatable"]["pods"] = pods
    assert only_node(nodes=[raw]).allocatable.pods == count


def test_a_node_that_never_reported_is_not_ready_and_has_nothing() -> None:
    raw = {"metadata": {"name": "new", "labels": {"edgeward.dev/tier": "edge"}}}
    found = only_node(nodes=[raw])
    assert (found.ready, found.not_ready_since, found.allocatable) == (False, None, Resources())


@pytest.mark.parametrize("amount", ["abc", "", "1e999", "--1", None, [], {}])
def test_an_amount_that_cannot_be_read_spoils_only_its_node(amount: object) -> None:
    bad, good = node("bad"), node("good")
    bad["status"]["allocatable"] = {"cpu": amount, "memory": "8Gi", "pods": "110"}
    found = {item.name: item for item in fleet(nodes=[bad, good]).nodes}
    assert found["good"].allocatable.cpu == 4000
    assert found["bad"].allocatable.cpu == 0


def test_models_in_a_store_are_known_by_what_a_ready_node_serves() -> None:
    status = {
        "nodes": [{"name": "n1", "ready": 1, "replicas": 1}, {"name": "n2", "ready": 0, "replicas": 1}],
        "models": [{"digest": DIGEST, "serving": True}, {"digest": OTHER, "serving": False}],
    }
    told = assignment({"name": "n1", "replicas": 1}, {"name": "n2", "replicas": 1}, status=status)
    found = {item.name: item.models for item in fleet(nodes=[node("n1"), node("n2")], assignments=[told]).nodes}
    assert found == {"n1": frozenset({DIGEST}), "n2": frozenset()}


# Pods ----------------------------------------------------------------------------------------------------------------


def container(cpu: str | None = None, memory: str | None = None, **more: Any) -> Raw:
    amounts = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    return {"name": "c", "resources": {"requests": amounts}, **more}


@pytest.mark.parametrize(
    ("spec", "cpu", "memory"),
    [
        ({}, 0, 0),
        ({"containers": [container("100m", "64Mi"), container("250m")]}, 350, 64),
        # The largest init container counts when it is larger than all containers together, each amount by itself.
        ({"containers": [container("100m", "64Mi")], "initContainers": [container("1", "32Mi")]}, 1000, 64),
        # A sidecar runs with the containers, and with the init containers after it.
        (
            {
                "containers": [container("100m", "64Mi")],
                "initContainers": [container("200m", "10Mi", restartPolicy="Always"), container("500m", "10Mi")],
            },
            700,
            74,
        ),
        # but not with those before it
        (
            {
                "containers": [container("100m", "64Mi")],
                "initContainers": [container("500m", "10Mi"), container("200m", "10Mi", restartPolicy="Always")],
            },
            500,
            74,
        ),
        ({"containers": [container("100m", "64Mi")], "overhead": {"cpu": "50m", "memory": "16Mi"}}, 150, 80),
        ({"containers": [{"name": "c"}, container("0.1", "67108864")]}, 100, 64),
        # The pod's own amounts (KEP-2837) replace what its containers add up to, one by one.
        (
            {
                "containers": [container("100m", "64Mi")],
                "resources": {"requests": {"cpu": "2"}},
                "overhead": {"cpu": "1m"},
            },
            2001,
            64,
        ),
    ],
)
def test_a_pod_counts_as_the_scheduler_counts_it(spec: Raw, cpu: int, memory: int) -> None:
    assert pod_request({"metadata": {"name": "p"}, "spec": spec}) == Resources(cpu, memory * MI, 1)


def test_foreign_is_what_is_bound_here_and_not_a_replica_of_a_job_there_is() -> None:
    told = assignment({"name": "n1", "replicas": 1})
    orphan = assignment({"name": "n1", "replicas": 1}, job="gone")
    done, unbound = pod("done"), pod("unbound", on=None)
    done["status"]["phase"] = "Succeeded"
    pods = [
        pod("theirs", cpu="300m"),
        pod("ours", cpu="1", assignment="signs-edge"),
        pod("orphan", cpu="50m", assignment="gone-edge"),
        done,
        unbound,
    ]
    found = fleet(nodes=[node()], pods=pods, jobs=[job()], assignments=[told, orphan])
    assert found.nodes[0].foreign == Resources(350, 128 * MI, 2)
    assert found.jobs[0].placed[0].started == (NOW - 40,)


def test_a_pod_with_an_amount_that_cannot_be_read_spoils_nothing() -> None:
    found = fleet(nodes=[node()], pods=[pod("bad", cpu="lots"), pod("good", cpu="300m")])
    assert found.nodes[0].foreign == Resources(300, 128 * MI, 2)


# What a job has ------------------------------------------------------------------------------------------------------


def test_placed_is_what_the_assignment_says_and_what_its_pods_show() -> None:
    status = {"nodes": [{"name": "n1", "replicas": 3, "ready": 3}]}
    told = assignment({"name": "n1", "replicas": 2, "leaving": 1, "since": ago(300)}, status=status)
    (placed,) = only_job(nodes=[node()], jobs=[job()], assignments=[told]).placed
    assert (placed.replicas, placed.ready, placed.since, placed.lost_since) == (2, 2, NOW - 300, None)


def test_pods_that_outlive_their_place_in_the_assignment_hold_their_room() -> None:
    told = assignment({"name": "n2", "replicas": 1})
    placed = only_job(
        nodes=[node("n1"), node("n2")], jobs=[job()], assignments=[told], pods=[pod(assignment="signs-edge")]
    ).placed
    assert [(item.node, item.replicas, len(item.started)) for item in placed] == [("n1", 0, 1), ("n2", 1, 0)]


def test_a_node_that_is_not_ready_has_been_lost_since_it_was() -> None:
    told = assignment({"name": "n1", "replicas": 1})
    (placed,) = only_job(nodes=[node(ready=False)], jobs=[job()], assignments=[told]).placed
    assert placed.lost_since == NOW - 100


def test_a_node_that_is_gone_has_been_lost_since_its_agent_said_so() -> None:
    report = {"name": "n1", "replicas": 1, "ready": 0, "reason": "NodeGone", "since": ago(700)}
    told = assignment({"name": "n1", "replicas": 1}, status={"nodes": [report]})
    (placed,) = only_job(jobs=[job()], assignments=[told]).placed
    assert placed.lost_since == NOW - 700
    (fresh,) = only_job(jobs=[job()], assignments=[assignment({"name": "n1", "replicas": 1})]).placed
    assert fresh.lost_since == NOW


def test_a_node_that_lost_its_labels_is_left_as_soon_as_another_can_take_over() -> None:
    """It is still in the cluster, so no agent ever says NodeGone: its age never grew and its replicas stayed for ever."""
    told = assignment({"name": "n1", "replicas": 1})
    bare = node("n1", tier=None)
    seen = fleet(nodes=[bare, node("n2")], jobs=[job()], assignments=[told])
    assert seen.jobs[0].placed[0].lost_since == 0.0
    placed_anew = replace(seen, jobs=(replace(seen.jobs[0], model_digest=DIGEST),))
    (planned,) = plan(placed_anew).jobs
    assert [(item.node, item.replicas) for item in planned.placements] == [("n2", 1)]


def test_a_node_that_changed_its_site_holds_one_replica_and_not_none() -> None:
    """While it moves between two Assignments its node is in both: leaving in one, wanted in the other."""
    leaving = assignment({"name": "n1", "replicas": 0, "leaving": 1}, site="old")
    wanted = assignment({"name": "n1", "replicas": 1, "since": ago(5)}, site="new")
    for order in ([leaving, wanted], [wanted, leaving]):
        (placed,) = only_job(nodes=[node(edgeward_dev__site="new")], jobs=[job()], assignments=order).placed
        assert (placed.site, placed.replicas, placed.since) == ("new", 1, NOW - 5)


def test_what_is_being_deleted_is_neither_a_job_nor_a_place() -> None:
    raw, told = job(), assignment({"name": "n1", "replicas": 1})
    raw["metadata"]["deletionTimestamp"] = ago(1)
    assert fleet(jobs=[raw]).jobs == ()
    told["metadata"]["deletionTimestamp"] = ago(1)
    assert only_job(nodes=[node()], jobs=[job()], assignments=[told]).placed == ()


# A job's wishes ------------------------------------------------------------------------------------------------------


def test_what_a_job_does_not_request_has_a_default() -> None:
    assert only_job(jobs=[job()]).request == DEFAULT_REQUEST
    half = only_job(jobs=[job(resources={"requests": {"cpu": "1500m"}})])
    assert half.request == Resources(1500, DEFAULT_REQUEST.memory, 1)


def test_a_limit_without_a_request_is_the_request_as_in_a_pod() -> None:
    found = only_job(jobs=[job(resources={"limits": {"cpu": 2, "memory": "1Gi"}, "requests": {"memory": "512Mi"}})])
    assert found.request == Resources(2000, 512 * MI, 1)


@pytest.mark.parametrize(
    ("cpu", "milli"), [("0.1", 100), ("1e3m", None), ("1u", 1), ("1", 1000), (3, 3000), ("1e1", 10000)]
)
def test_weird_quantities_are_read_or_named(cpu: object, milli: int | None) -> None:
    found = only_job(jobs=[job(resources={"requests": {"cpu": cpu}})])
    if milli is None:
        assert found.problem is not None and found.problem.path == "spec.resources.requests.cpu"
    else:
        assert found.problem is None and found.request.cpu == milli


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"replicas": -1}, "spec.replicas"),
        ({"replicas": "many"}, "spec.replicas"),
        ({"priority": {"importance": 6}}, "spec.priority.importance"),
        ({"placement": {"tiers": ["moon"]}}, "spec.placement.tiers[0]"),
        ({"model": {}}, "spec.model.name"),
        ({"disconnect": {"lostAfter": "5 minutes"}}, "spec.disconnect.lostAfter"),
    ],
)
def test_a_bad_job_becomes_a_problem_with_the_path_and_spoils_no_other(spec: Raw, path: str) -> None:
    told = assignment({"name": "n1", "replicas": 2})
    jobs = {item.name: item for item in fleet(nodes=[node()], jobs=[job(**spec), job("good")], assignments=[told]).jobs}
    bad = jobs["signs"]
    assert bad.problem is not None and (bad.problem.reason, bad.problem.path) == ("InvalidSpec", path)
    assert bad.problem.message.startswith(path)
    assert [(item.node, item.replicas) for item in bad.placed] == [("n1", 2)], "what it has stays known"
    assert jobs["good"].problem is None


@pytest.mark.parametrize(
    "status",
    [
        {"decisions": [{"site": "s", "score": 5000}]},
        {"exclusions": [{"node": "n", "reason": "r", "until": "tomorrow"}]},
        {"proposedMove": {"source": "a", "target": "b", "lastAt": "24 o'clock"}},
        {"conditions": [{"type": "Ready"}]},
        {"replicas": "x"},
        {"moves": {"count": -1}},
    ],
)
def test_a_status_that_cannot_be_read_is_forgotten_and_the_job_goes_on(status: Raw) -> None:
    """Status is our own memory. Another version's, or a slip of the hand with --subresource=status, is no bad spec."""
    found = only_job(jobs=[job(replicas=2, status=status)])
    assert found.problem is None
    assert (found.replicas, found.exclusions, found.proposed) == (2, (), None)


def test_a_report_with_a_time_that_cannot_be_read_spoils_nothing() -> None:
    report = {"name": "n1", "replicas": 1, "ready": 0, "reason": "Unschedulable", "since": "later"}
    told = assignment({"name": "n1", "replicas": 1, "since": "whenever"}, status={"nodes": [report]})
    found = only_job(nodes=[node()], jobs=[job()], assignments=[told])
    assert found.exclusions == () and found.placed[0].since == NOW - 500


def test_an_assignment_that_cannot_be_read_is_a_problem_of_its_job_and_of_no_other() -> None:
    """Were it merely left out, the job would look unplaced and be started a second time elsewhere."""
    broken = assignment({"name": "n1", "replicas": "two"})
    jobs = {item.name: item for item in fleet(nodes=[node()], jobs=[job(), job("good")], assignments=[broken]).jobs}
    problem = jobs["signs"].problem
    assert problem is not None and "signs-edge" in problem.message and "spec.nodes[0].replicas" in problem.message
    assert jobs["good"].problem is None


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"disconnect": {"stopLocalAfter": "1h"}}, "spec.disconnect.stopLocalAfter"),
    ],
)
def test_a_protection_that_does_not_work_yet_is_a_problem(spec: Raw, path: str) -> None:
    problem = only_job(jobs=[job(**spec)]).problem
    assert problem is not None and (problem.reason, problem.path) == ("FeatureNotYetAvailable", path)


def test_what_is_only_less_than_hoped_for_is_no_problem() -> None:
    assert only_job(jobs=[job(capture={"ttl": "72h"}, slo={"latency": "80ms"})]).problem is None


def test_names_at_the_length_limit() -> None:
    long = "a" * 63
    raw = job(long, model={"name": "m" * 63})
    found = only_job(jobs=[raw], releases=[release("m" * 63)])
    assert found.problem is None and found.name == long and found.model_digest == DIGEST


def test_refusals_and_what_is_known_of_them_become_exclusions() -> None:
    report = {"name": "n1", "replicas": 1, "ready": 0, "reason": "Unschedulable", "message": "full", "since": ago(61)}
    told = assignment({"name": "n1", "replicas": 1}, status={"nodes": [report]})
    status = {"exclusions": [{"node": "n2", "reason": "x", "count": 2, "until": ago(-30)}]}
    found = only_job(nodes=[node()], jobs=[job(status=status)], assignments=[told]).exclusions
    assert [(item.node, item.count, item.until) for item in found] == [("n1", 1, NOW + 60), ("n2", 2, NOW + 30)]


# What a job is to run ------------------------------------------------------------------------------------------------


def digest_of(spec: Raw, *releases: Raw, told: list[Raw] | None = None) -> str:
    present = [assignment({"name": "n1", "replicas": 1}, models=told)] if told is not None else []
    return only_job(jobs=[job(model={"name": "m", **spec})], releases=releases, assignments=present).model_digest


OLD = {"name": "m", "version": "0.9", "digest": OTHER, "sources": ["https://models/old"]}


def test_a_job_runs_what_its_release_wants() -> None:
    assert digest_of({}, release()) == DIGEST
    assert digest_of({}) == ""
    assert digest_of({}, release("another")) == ""


def test_a_pin_holds_a_job_to_what_it_was_told_before() -> None:
    assert digest_of({"version": "1.0"}, release()) == DIGEST
    assert digest_of({"version": "0.9"}, release()) == ""
    assert digest_of({"version": "0.9"}, release(), told=[OLD]) == OTHER
    assert digest_of({"digest": OTHER}, release(), told=[OLD]) == OTHER
    assert digest_of({"digest": DIGEST}, release(), told=[OLD]) == DIGEST


def test_a_release_that_is_deleted_or_broken_leaves_what_was_told() -> None:
    assert digest_of({}, told=[OLD]) == OTHER
    assert digest_of({}, release(digest="md5:1"), told=[OLD]) == OTHER


def test_a_bad_release_becomes_a_problem_with_the_path() -> None:
    bad, good = fleet(releases=[release(digest="md5:1"), release("good")]).releases
    assert bad.problem is not None and bad.problem.path == "spec.artifact.digest"
    assert good.problem is None and good.target is not None and good.target.sources == ("https://models/m",)


def test_a_release_knows_what_each_site_was_told_and_serves() -> None:
    refusal = {"step": "Verify", "reason": "DigestMismatch", "message": "other bytes"}
    models = [{"digest": OTHER, "version": "0.9", "serving": True}, {"digest": DIGEST, "refused": refusal}]
    status = {"readyReplicas": 1, "models": models}
    told = assignment({"name": "n1", "replicas": 1}, status=status)
    (found,) = fleet(jobs=[job()], releases=[release()], assignments=[told]).releases[0].sites
    assert (found.job, found.site, found.ready, found.replicas) == ("shop/signs", "edge", 1, 1)
    assert [(item.digest, item.serving, item.refused_step) for item in found.served] == [
        (OTHER, True, ""),
        (DIGEST, False, "Verify"),
    ]


def test_the_last_finished_version_is_read_back_from_status() -> None:
    (found,) = fleet(releases=[release(status={"currentVersion": "0.9", "currentDigest": OTHER})]).releases
    assert found.current is not None and (found.current.version, found.current.digest) == ("0.9", OTHER)
    (forgot,) = fleet(releases=[release(status={"currentDigest": "nonsense"})]).releases
    assert forgot.problem is None and forgot.target is not None and forgot.current is None


# The whole -----------------------------------------------------------------------------------------------------------

nasty = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["1k", "-1", "5m", ago(1)])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


def _spoiled(raw: Raw, path: list[str], value: object) -> Raw:
    """`raw` with one value deep inside replaced."""
    if not path:
        return value  # type: ignore[return-value]
    head, *rest = path
    return {**raw, head: _spoiled(raw.get(head) or {}, rest, value)}


@given(
    st.sampled_from(
        [
            ("jobs", ["spec"]),
            ("jobs", ["spec", "replicas"]),
            ("jobs", ["spec", "resources"]),
            ("jobs", ["spec", "placement"]),
            ("jobs", ["status"]),
            ("jobs", ["status", "exclusions"]),
            ("jobs", ["status", "moves"]),
            ("releases", ["spec"]),
            ("releases", ["status"]),
            ("assignments", ["spec", "nodes"]),
            ("assignments", ["spec", "models"]),
            ("assignments", ["status"]),
            ("sites", ["spec"]),
        ]
    ),
    nasty,
)
def test_whatever_one_object_says_the_others_are_read(where: tuple[str, list[str]], value: object) -> None:
    kind, path = where
    objects: dict[str, list[Raw]] = {
        "jobs": [job(), job("good")],
        "releases": [release(), release("good")],
        "assignments": [
            assignment({"name": "n1", "replicas": 1}),
            assignment({"name": "n1", "replicas": 1}, job="good"),
        ],
        "sites": [site("one"), site("two", tier="fog")],
    }
    objects[kind][0] = _spoiled(objects[kind][0], path, value)
    found = build(now=NOW, nodes=[node()], pods=[], **objects)
    good = next(item for item in found.jobs if item.name == "good")
    assert good.problem is None and [item.replicas for item in good.placed] == [1]
    assert any(item.name == "good" and item.target for item in found.releases)
    assert any(item.name == "two" for item in found.sites)
