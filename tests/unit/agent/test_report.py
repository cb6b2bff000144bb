"""What became of an Assignment: each obstacle by its name, since when, and never more than the CRD takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.agent.report import is_ready, stamped, status
from edgeward.agent.scrape import believable
from edgeward.agent.surge import IN_PLACE
from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.fleet.failures import REFUSALS
from tests.unit.fleet.objects import DIGEST, OTHER, Raw, assignment, node

ROOT = Path(__file__).parents[3]
CRD = yaml.safe_load((ROOT / "crds/edgeward.dev_assignments.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
T0, T1, T2 = "2027-01-01T00:00:00Z", "2027-01-01T00:05:00Z", "2027-01-01T00:09:00Z"


def pod(uid: str = "p", *, on: str = "n1", ready: bool = False, phase: str = "Running", **state: Any) -> Raw:
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": T1}]
    return {
        "metadata": {"name": uid, "uid": uid, "creationTimestamp": T0, "annotations": {"edgeward.dev/node": on}},
        "spec": {"nodeName": on},
        "status": {"phase": phase, "conditions": conditions, **state},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "runtime", "state": {"waiting": {"reason": reason, "message": message}}}]}


def serves(digest: str = DIGEST, **more: Any) -> Raw:
    state = {"state": "Serving", "serving": True, "since": T1, "bytes": 10, "seconds": 0.25}
    return {"name": "m", "version": "1.0", "digest": digest, **state, **more}


def refused(digest: str = OTHER) -> Raw:
    why = {"step": "Verify", "reason": "DigestMismatch", "message": "other bytes", "at": T1}
    return {
        "name": "m",
        "version": "2.0",
        "digest": digest,
        "state": "Failed",
        "serving": False,
        "since": T1,
        "refused": why,
    }


def report(
    *pods: Raw, replicas: int = 1, leaving: int = 0, nodes: Any = None, runtimes: Any = None, deployments: Any = None
) -> Raw:
    told = parse(Assignment, assignment({"name": "n1", "replicas": replicas, "leaving": leaving}))
    found = status(
        told,
        pods=pods,
        deployments=deployments or {},
        nodes={"n1": node()} if nodes is None else nodes,
        runtimes=runtimes or {},
        applied_revision=4,
        conditions=[{"type": "Applied", "status": "True", "reason": "Applied", "message": ""}],
    )
    jsonschema.validate(stamped(found, {}, now=T2), SCHEMA)
    return found


def said(*pods: Raw, **more: Any) -> tuple[str, str | None]:
    (entry,) = report(*pods, **more)["nodes"]
    return entry.get("reason", ""), entry.get("since")


def test_a_node_that_serves_says_nothing_more() -> None:
    (entry,) = report(pod(ready=True))["nodes"]
    assert entry == {"name": "n1", "replicas": 1, "ready": 1}


def test_leaving_replicas_count_as_wanted() -> None:
    (entry,) = report(pod(ready=True), replicas=1, leaving=1)["nodes"]
    assert (entry["replicas"], entry["ready"], entry["reason"]) == (2, 1, "Starting")


def test_a_node_that_is_gone_or_away_comes_first() -> None:
    assert said(pod(ready=True), nodes={}) == ("NodeGone", None)
    away = node(ready=False)
    since = away["status"]["conditions"][0]["lastTransitionTime"]
    assert said(pod(**waiting("CrashLoopBackOff")), nodes={"n1": away}) == ("NodeNotReady", since)


def test_a_pool_is_never_gone_and_says_what_its_pods_wait_for() -> None:
    told = parse(Assignment, assignment({"name": "edge/*", "replicas": 2}))
    waits = [{"type": "PodScheduled", "status": "False", "reason": "x", "message": "full", "lastTransitionTime": T1}]
    pods = [pod("a", on="edge/*", ready=True), pod("b", on="edge/*")]
    pods[1]["status"]["conditions"] += waits
    rest: Raw = {"deployments": {}, "nodes": {}, "runtimes": {}, "applied_revision": 1, "conditions": []}
    (said_of,) = status(told, pods=pods, **rest)["nodes"]
    assert said_of == {
        "name": "edge/*",
        "replicas": 2,
        "ready": 1,
        "reason": "Unschedulable",
        "message": "full",
        "since": T1,
    }
    (both,) = status(told, pods=[pod(uid, on="edge/*", ready=True) for uid in "ab"], **rest)["nodes"]
    assert both == {"name": "edge/*", "replicas": 2, "ready": 2}


def test_pods_that_the_api_does_not_let_a_deployment_make() -> None:
    """A quota of the namespace, or Pod Security, speaks to the ReplicaSet only: without this it said Starting for ever."""
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods", "lastTransitionTime": T1}
    deployments = {"n1": {"metadata": {}, "status": {"conditions": [refused]}}}
    (entry,) = report(deployments=deployments)["nodes"]
    assert (entry["reason"], entry["message"], entry["since"]) == ("PodsNotCreated", "exceeded quota: pods", T1)
    over = {**refused, "status": "False"}
    assert said(deployments={"n1": {"metadata": {}, "status": {"conditions": [over]}}}) == ("Starting", None)


def deployed(*, replicas: int = 1, generation: int = 2, seen: int = 2, **status: Any) -> dict[str, Raw]:
    """The node's Deployment as its controller leaves it; updated, and all there is, unless told otherwise."""
    full = {"observedGeneration": seen, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas}
    body = {"metadata": {"generation": generation}, "spec": {"replicas": replicas}, "status": {**full, **status}}
    return {"n1": body}


def of_template(told: Raw, template: str, *, born: str = T0) -> Raw:
    meta = {**told["metadata"], "labels": {"pod-template-hash": template}, "creationTimestamp": born}
    return {**told, "metadata": meta}


def change(*pods: Raw, **more: Any) -> tuple[str, str]:
    (entry,) = report(*pods, **more)["nodes"]
    return entry.get("reason", ""), entry.get("message", "")


OLD_POD = of_template(pod("old", ready=True), "before")
SURGE = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "unavailableReplicas": 1}


def test_a_change_that_cannot_come_up_beside_the_pod_that_serves_is_told() -> None:
    """maxSurge 1 keeps the old pod Ready: without this the node said nothing, and the job was Ready for ever."""
    stuck = of_template(pod("new", phase="Pending", **waiting("ImagePullBackOff", "no such tag")), "after", born=T1)
    said_now = change(OLD_POD, stuck, deployments=deployed(**SURGE))
    assert said_now == ("PodUpdating", "ImagePullBackOff: no such tag")
    never = of_template(pod("new", phase="Pending"), "after", born=T1)
    never["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]
    assert change(OLD_POD, never, deployments=deployed(**SURGE)) == ("PodUpdating", "Unschedulable: 0/3 nodes")
    turned_away = of_template(pod("new", phase="Failed", reason="OutOfcpu"), "after", born=T1)
    assert change(OLD_POD, turned_away, deployments=deployed(**SURGE)) == ("PodUpdating", "OutOfcpu")


def test_a_want_of_room_beside_the_old_pod_has_its_own_word() -> None:
    (entry,) = report(OLD_POD, unplaced(), deployments=deployed(**SURGE))["nodes"]
    assert (entry["reason"], entry["since"]) == ("NoRoomToSurge", T1)
    assert "NoRoomToSurge" not in REFUSALS


def unplaced() -> Raw:
    never = of_template(pod("new", phase="Pending"), "after", born=T1)
    full = {"type": "PodScheduled", "status": "False", "message": "1 Insufficient cpu.", "lastTransitionTime": T1}
    never["status"]["conditions"] = [full]
    return never


def test_a_pod_that_takes_the_place_of_an_old_one_has_not_been_refused_while_that_one_stood_there() -> None:
    """Its node was left out at once, for a want of room of a minute ago, and the replica went elsewhere for good."""
    (here,) = deployed(**{**SURGE, "readyReplicas": 0}).values()
    here["spec"]["strategy"] = IN_PLACE
    going = {**OLD_POD, "metadata": {**OLD_POD["metadata"], "deletionTimestamp": T1}}
    assert change(going, unplaced(), deployments={"n1": here}) == ("Starting", "")
    (entry,) = report(unplaced(), deployments={"n1": here})["nodes"]
    assert entry["reason"] == "Unschedulable" and entry.get("since") != T1, "it counts from now"
    broken = of_template(pod("new", **waiting("CrashLoopBackOff", "exit 1")), "after", born=T1)
    assert change(going, broken, deployments={"n1": here}) == ("CrashLoopBackOff", "exit 1")


def test_a_change_that_the_api_makes_no_pod_for_is_told() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods", "lastTransitionTime": T1}
    found = change(OLD_POD, deployments=deployed(updatedReplicas=0, conditions=[refused]))
    assert found == ("PodUpdating", "PodsNotCreated: exceeded quota: pods")


@pytest.mark.parametrize(
    "deployments",
    [
        pytest.param(deployed(seen=1), id="nobody-has-looked-at-the-change"),
        pytest.param(deployed(updatedReplicas=0), id="no-pod-of-it-yet"),
        pytest.param({"n1": {**deployed()["n1"], "status": {"observedGeneration": 2, "replicas": 1}}}, id="none-named"),
        pytest.param(deployed(**SURGE), id="its-pod-starts"),
    ],
)
def test_a_change_that_is_merely_under_way_has_no_message(deployments: dict[str, Raw]) -> None:
    assert change(OLD_POD, of_template(pod("new"), "after", born=T1), deployments=deployments) == ("PodUpdating", "")


def test_what_is_in_the_way_of_the_old_pods_is_none_of_the_change() -> None:
    broken = of_template(pod("old-2", **waiting("CrashLoopBackOff", "exit 1")), "before")
    fresh = of_template(pod("new"), "after", born=T1)
    assert change(OLD_POD, broken, fresh, deployments=deployed(**SURGE)) == ("PodUpdating", "")


def test_a_change_that_is_through_says_nothing() -> None:
    assert change(of_template(pod("new", ready=True), "after"), deployments=deployed()) == ("", "")
    scaled_to_nothing = deployed(replicas=0)
    assert change(replicas=0, deployments=scaled_to_nothing) == ("", "")


def test_a_change_leaves_no_node_out() -> None:
    """It would fail in the same way everywhere: driven from node to node, the job would lose the pods that serve."""
    assert "PodUpdating" not in REFUSALS


def test_no_pod_yet_is_starting() -> None:
    assert said() == ("Starting", None)
    assert said(pod()) == ("Starting", None)


def test_what_the_scheduler_refuses_since_it_did() -> None:
    never = pod(phase="Pending")
    never["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes", "lastTransitionTime": T1}
    ]
    assert said(never) == ("Unschedulable", T1)


def test_a_very_long_message_of_the_scheduler_is_cut() -> None:
    never = pod(phase="Pending")
    never["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": "0/5000 nodes " * 400, "lastTransitionTime": T1}
    ]
    assert said(never)[0] == "Unschedulable"


def test_a_condition_without_a_time_gets_one_when_it_is_first_seen() -> None:
    never = pod(phase="Pending")
    never["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "no"}]
    assert said(never) == ("Unschedulable", None)
    away = node(ready=False)
    del away["status"]["conditions"][0]["lastTransitionTime"]
    assert said(nodes={"n1": away}) == ("NodeNotReady", None)


@pytest.mark.parametrize("reason", ["CrashLoopBackOff", "ImagePullBackOff", "CreateContainerConfigError"])
def test_what_the_kubelet_refuses(reason: str) -> None:
    assert said(pod(**waiting(reason, "back-off")))[0] == reason


def test_a_pod_that_ran_for_days_is_only_broken_since_it_stopped_being_ready() -> None:
    """Since its birth it would be out of patience at once, and its node left at the first crash."""
    assert said(pod(**waiting("CrashLoopBackOff"))) == ("CrashLoopBackOff", T1)


def test_waiting_for_a_moment_is_no_obstacle() -> None:
    assert said(pod(**waiting("ContainerCreating"))) == ("Starting", None)


def test_a_failed_pod_speaks_only_while_no_other_runs() -> None:
    """The leftover of a reboot lies around for days beside the pod that replaced it."""
    leftover = pod("old", phase="Failed", reason="NodeShutdown")
    assert said(leftover, pod("new")) == ("Starting", None)
    assert said(pod("old", phase="Failed", reason="OutOfcpu"))[0] == "OutOfcpu"
    assert said(pod("old", phase="Failed"))[0] == "PodFailed"
    assert report(leftover, pod("new"))["replicas"] == 1, "it is no replica"


def test_a_model_that_was_refused_is_its_own_reason() -> None:
    answers = {"p": {"contract": 1, "revision": 4, "models": [refused()]}}
    assert said(pod(), runtimes=answers) == ("ModelRefused", T1)


def test_one_that_is_going_says_nothing() -> None:
    going = pod(**waiting("CrashLoopBackOff"))
    going["metadata"]["deletionTimestamp"] = T1
    assert said(going) == ("Starting", None)
    assert not is_ready({**going, "status": pod(ready=True)["status"]})


# Times ---------------------------------------------------------------------------------------------------------------


def test_since_stays_while_the_reason_does() -> None:
    first = stamped(report(), {}, now=T0)
    assert first["nodes"][0]["since"] == T0
    again = stamped(report(), first, now=T1)
    assert again == first, "the same said again is the same: no write"
    changed = stamped(report(nodes={}), first, now=T2)
    assert (changed["nodes"][0]["reason"], changed["nodes"][0]["since"]) == ("NodeGone", T2)


def test_a_condition_keeps_its_time_while_its_status_does() -> None:
    first = stamped(report(), {}, now=T0)
    other = {**report(), "conditions": [{"type": "Applied", "status": "False", "reason": "x", "message": ""}]}
    assert stamped(other, first, now=T1)["conditions"][0]["lastTransitionTime"] == T1
    assert stamped(report(), first, now=T1)["conditions"][0]["lastTransitionTime"] == T0


# Models --------------------------------------------------------------------------------------------------------------


def models(*pods: tuple[Raw, list[Raw]], replicas: int = 1) -> list[Raw]:
    answers = {one["metadata"]["uid"]: {"contract": 1, "revision": 1, "models": said} for one, said in pods}
    found: list[Raw] = report(*(one for one, _ in pods), replicas=replicas, runtimes=answers)["models"]
    return found


def test_runtimes_are_merged_by_digest() -> None:
    up, late = pod("a", ready=True), pod("b", ready=True)
    (entry,) = models((up, [serves()]), (late, [serves(since=T2, seconds=0.5)]), replicas=2)
    assert entry == {
        "name": "m",
        "version": "1.0",
        "digest": DIGEST,
        "state": "Serving",
        "serving": True,
        "replicas": 2,
        "since": T1,
        "bytes": 10,
        "seconds": "0.5",
    }


def test_bytes_are_those_of_all_pods_and_never_become_less() -> None:
    up, late = pod("a", ready=True), pod("b", ready=True)
    (entry,) = models((up, [serves(received=30)]), (late, [serves(shared=20, received=10)]), replicas=2)
    assert (entry["received"], entry["shared"]) == (40, 20)
    told = assignment({"name": "n1", "replicas": 1})
    known = parse(Assignment, {**told, "status": {"models": [entry]}})
    found = status(
        known,
        pods=[up],
        deployments={},
        nodes={"n1": node()},
        runtimes={"a": {"contract": 1, "revision": 1, "models": [serves()]}},
        applied_revision=4,
        conditions=[],
    )["models"]
    assert [(one["received"], one["shared"]) for one in found] == [(40, 20)], "a pod counts from its start"


def test_serving_means_every_ready_pod_does() -> None:
    up, swapping = pod("a", ready=True), pod("b", ready=True)
    new = serves(OTHER, state="Loading", serving=False)
    entries = {item["digest"]: item for item in models((up, [serves(OTHER)]), (swapping, [serves(), new]), replicas=2)}
    assert (entries[OTHER]["serving"], entries[OTHER]["state"], entries[OTHER]["replicas"]) == (False, "Loading", 1)
    assert entries[DIGEST]["serving"] is False


def test_a_refusal_of_any_pod_is_shown_beside_what_serves() -> None:
    entries = {item["digest"]: item for item in models((pod("a", ready=True), [serves(), refused()]))}
    assert entries[DIGEST]["serving"] and entries[OTHER]["refused"]["reason"] == "DigestMismatch"


def test_what_the_policy_let_pass_is_shown_beside_that_it_serves() -> None:
    why = {"step": "Signature", "reason": "SignatureMissing", "message": "nobody signed it", "at": T1}
    (entry,) = models((pod("a", ready=True), [serves(warning=why)]))
    assert entry["serving"] and entry["warning"] == why and "refused" not in entry


def test_what_serves_fits_its_field_however_long_the_names() -> None:
    long = [serves(f"sha256:{number:064x}", name="m" * 63, version="v" * 63) for number in range(20)]
    found = report(pod("a", ready=True), runtimes={"a": {"contract": 1, "revision": 1, "models": long}})
    assert len(found["serves"]) <= 256 and len(found["models"]) <= 16


def test_words_of_a_newer_runtime_are_shown_as_those_the_api_knows() -> None:
    newer = {**refused(), "state": "Attesting"}
    newer["refused"] = {**newer["refused"], "step": "Attest"}
    answer = {"contract": 1, "revision": 1, "models": [newer, serves()]}
    assert believable(answer)
    found = report(pod("a", ready=True), runtimes={"a": answer})
    (model,) = [model for model in found["models"] if model["digest"] == OTHER]
    assert model["state"] == "Loading"
    assert (model["refused"]["step"], model["refused"]["message"]) == ("Load", "Attest: other bytes")


# Whatever a runtime answers ------------------------------------------------------------------------------------------

text = st.one_of(
    st.sampled_from([T0, DIGEST, "m", "Serving", "Failed", "Verify", "Later", "", "x" * 2000]), st.text(max_size=4)
)
scalar = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), text)
refusal = st.dictionaries(st.sampled_from(["step", "reason", "message", "at"]), text)
sound = st.fixed_dictionaries({}, optional={key: st.just(value) for key, value in serves().items()})
broken = st.dictionaries(st.sampled_from([*serves(), "refused"]), st.one_of(scalar, refusal), max_size=3)
answers = st.one_of(
    scalar,
    st.builds(
        lambda parts, more: {"contract": 1, "revision": 1, "models": [{**serves(), **part} for part in parts], **more},
        st.lists(st.one_of(sound, broken), max_size=3),
        st.dictionaries(st.sampled_from(["contract", "revision", "models", "x"]), scalar, max_size=1),
    ),
)


@settings(max_examples=60, deadline=None)
@given(answers)
def test_what_is_believed_makes_a_status_that_the_api_takes(answer: object) -> None:
    """An answer let through and refused by the API would hold up the report of its whole Assignment for ever."""
    if believable(answer):
        report(pod("a", ready=True), runtimes={"a": answer})
        report(pod("a"), runtimes={"a": answer})
