"""What is deleted, and what is not: a missing job is not yet a deleted one."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from .operator_harness import NAMESPACE, ROOT, World, eventually

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/edgeward-hub"
CONFIRM = "edgeward.dev/confirm-deletion-of-all"


def _children(world: World, namespace: str) -> dict[str, int]:
    """How many of each kind Edgeward has made in a namespace."""
    owned = "?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dedgeward"
    paths = {
        "deployments": f"/apis/apps/v1/namespaces/{namespace}/deployments",
        "budgets": f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
        "services": f"/api/v1/namespaces/{namespace}/services",
        "configmaps": f"/api/v1/namespaces/{namespace}/configmaps",
        "pods": f"/api/v1/namespaces/{namespace}/pods",
    }
    counts = {kind: len(world.api.get(path + owned)["items"]) for kind, path in paths.items()}
    return {kind: count for kind, count in counts.items() if count}


def test_a_job_deleted_while_nobody_looks(replicas: World, namespace: str) -> None:
    world = replicas
    operator = world.operator("one").start().await_leading()
    world.job(namespace, "stays", replicas=2)
    world.job(namespace, "goes", replicas=3)
    world.await_ready(namespace, "stays", "goes")
    pods = {pod["metadata"]["uid"] for pod in world.pods(namespace, "stays")}
    operator.kill()
    world.delete(f"{world.jobs(namespace)}/goes")
    time.sleep(1)
    assert len(world.pods(namespace, "goes")) == 3, "nothing goes without the operator's word"
    operator.start().await_leading()
    eventually(lambda: not world.assignments(namespace, "goes"), seconds=20, what="the Assignment goes")
    assert world.pods(namespace, "goes") == []
    names = [item["metadata"]["name"] for item in world.deployments(namespace)]
    assert names and all(name.startswith("stays") for name in names)
    assert {pod["metadata"]["uid"] for pod in world.pods(namespace, "stays")} == pods
    operator.stop()


def test_the_last_job_may_go_too(replicas: World, namespace: str) -> None:
    replicas.operator("one").start().await_leading()
    replicas.job(namespace, "only", replicas=2)
    replicas.await_ready(namespace, "only")
    assert {"deployments", "services", "configmaps", "pods"} <= set(_children(replicas, namespace))
    replicas.delete(f"{replicas.jobs(namespace)}/only")
    eventually(lambda: not _children(replicas, namespace), seconds=20, what="nothing is left")
    eventually(lambda: not replicas.assignments(namespace), what="and no Assignment")


def test_a_job_made_anew_within_a_second_restarts_nothing(replicas: World, namespace: str) -> None:
    world = replicas
    world.operator("one").start().await_leading()
    world.job(namespace, "again", replicas=3)
    world.await_ready(namespace, "again")
    pods, old = world.uids(namespace), world.get_job(namespace, "again")["metadata"]["uid"]
    world.delete(f"{world.jobs(namespace)}/again")
    time.sleep(0.5)
    world.job(namespace, "again", replicas=3)
    world.await_ready(namespace, "again")
    new = world.get_job(namespace, "again")["metadata"]["uid"]
    assert new != old
    eventually(
        lambda: {item["spec"]["job"]["uid"] for item in world.assignments(namespace)} == {new}, what="taken over"
    )
    time.sleep(3)  # longer than the time that a job must be missing
    assert world.uids(namespace) == pods


def test_all_jobs_gone_at_once_waits_for_a_word(replicas: World, namespace: str) -> None:
    world = replicas
    world.operator("one").start().await_leading()
    for name in ("first", "second"):
        world.job(namespace, name, replicas=2)
    world.await_ready(namespace, "first", "second")
    pods = world.uids(namespace)
    world.delete(world.jobs(namespace))
    told = eventually(
        lambda: [event for event in world.events(NAMESPACE, "edgeward-hub") if event["reason"] == "AllJobsGone"],
        seconds=20,
        what="an Event",
    )
    assert CONFIRM in told[-1]["message"]
    time.sleep(3)
    assert world.uids(namespace) == pods and len(world.assignments(namespace)) >= 2
    world.api.patch(LEASE, {"metadata": {"annotations": {CONFIRM: "true"}}})
    eventually(lambda: not _children(world, namespace), seconds=20, what="now they go")
    eventually(lambda: not world.assignments(namespace), what="and their Assignments")


def test_a_lost_definition_deletes_nothing(replicas: World, namespace: str) -> None:
    world = replicas
    operator = world.operator("one").start().await_leading()
    for name in ("first", "second"):
        world.job(namespace, name, replicas=2)
    world.await_ready(namespace, "first", "second")
    pods = world.uids(namespace)
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferencejobs.edgeward.dev"
    file = next(path for path in (ROOT / "crds").glob("*.yaml") if "inferencejobs" in path.name)
    stop, restarts = threading.Event(), [0]

    def restart_like_the_kubelet() -> None:
        while not stop.wait(0.3):
            if not operator.running:
                restarts[0] += 1
                operator.start()

    keeper = threading.Thread(target=restart_like_the_kubelet, daemon=True)
    keeper.start()
    try:
        lost = time.time()
        world.delete(definition)
        eventually(lambda: _is_gone(world, definition), what="the definition is gone")
        time.sleep(4)
        assert world.uids(namespace) == pods
        world.plane.kubectl("apply", "-f", str(file))
        world.plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(file))
        time.sleep(4)  # it is back, and no job with it: still no word to delete anything
        assert world.uids(namespace) == pods
        deletes = [write for write in world.writes(since=lost) if write.verb == "delete"]
        assert deletes == []
        for name in ("first", "second"):
            world.job(namespace, name, replicas=2)
        world.await_ready(namespace, "first", "second", seconds=60)
        assert world.uids(namespace) == pods
    finally:
        stop.set()
        keeper.join()
        world.plane.kubectl("apply", "-f", str(file))


def _is_gone(world: World, path: str) -> bool:
    from tests.cluster.api import ApiError

    try:
        world.api.get(path)
    except ApiError as error:
        return error.status == 404
    return False


def test_kills_at_any_moment_lose_nothing_and_leave_nothing(replicas: World, namespace: str) -> None:
    _churn(replicas, namespace, kills=3, seed=3)


@pytest.mark.full
def test_many_kills_at_any_moment_lose_nothing_and_leave_nothing(replicas: World, namespace: str) -> None:
    _churn(replicas, namespace, kills=20, seed=4)


def _churn(world: World, namespace: str, *, kills: int, seed: int) -> None:
    """30 jobs are made, edited and deleted while the operator is killed; then what is there must be what is wanted."""
    chance = random.Random(seed)
    operator = world.operator("one", timing={"leaseDuration": 3.0, "leaseRenewDeadline": 2.0}).start()
    operator.await_leading()
    wanted: dict[str, int] = {}
    stop = threading.Event()

    def edit() -> None:
        for number in range(30):
            name = f"job-{number:02}"
            wanted[name] = chance.randint(1, 3)
            world.job(namespace, name, replicas=wanted[name])
            time.sleep(chance.uniform(0.05, 0.2))
        while not stop.is_set():
            name = f"job-{chance.randrange(30):02}"
            if name in wanted and chance.random() < 0.3 and len(wanted) > 10:
                world.delete(f"{world.jobs(namespace)}/{name}")
                del wanted[name]
            else:
                wanted[name] = chance.randint(1, 3)
                world.job(namespace, name, replicas=wanted[name])
            time.sleep(chance.uniform(0.05, 0.2))

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.5, 3.5))
            operator.kill()
            operator.start()
    finally:
        stop.set()
        editor.join()
    operator.await_leading()

    def as_wanted() -> bool:
        jobs = {item["metadata"]["name"] for item in world.api.get(world.jobs(namespace))["items"]}
        assert jobs == set(wanted)
        pods: dict[str, int] = {}
        for pod in world.pods(namespace):
            assert "deletionTimestamp" not in pod["metadata"] and _ready(pod)
            name = pod["metadata"]["labels"]["edgeward.dev/job"]
            pods[name] = pods.get(name, 0) + 1
        assert pods == wanted
        assert {item["spec"]["job"]["name"] for item in world.assignments(namespace)} == set(wanted)
        return True

    eventually(as_wanted, seconds=60, what="just what is wanted is there")
    world.await_ready(namespace, *wanted)
    labelled = "?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dedgeward"
    services = world.api.get(f"/api/v1/namespaces/{namespace}/services{labelled}")["items"]
    configs = world.api.get(f"/api/v1/namespaces/{namespace}/configmaps{labelled}")["items"]
    deployments = world.deployments(namespace)
    for kind in (services, configs, deployments):
        assert {item["metadata"]["labels"]["edgeward.dev/job"] for item in kind} == set(wanted)
    assert sum(item["spec"]["replicas"] for item in deployments) == sum(wanted.values())
    claimed = [(n["name"], n.get("leaving", 0)) for a in world.assignments(namespace) for n in a["spec"]["nodes"]]
    assert all(leaving == 0 for _, leaving in claimed)


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
