"""Bad and odd input: a clear word for whoever wrote it, nothing lost, and the others go on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .operator_harness import NODES, Operator, World, eventually
from .test_operator_placement import asking, at_site

TOTAL = sum(options["count"] for options in NODES.values())


@pytest.fixture(autouse=True)
def nothing_failed(operator: Operator) -> Any:
    """Whatever a user wrote, no pass of the planner fails over it, and no other job waits."""
    before = operator.metric("edgeward_failures_total")
    yield
    assert operator.metric("edgeward_failures_total") == before, operator.log[-3000:]


def test_a_model_that_is_not_there_yet(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "early", model={"name": "later"})
    ready = world.await_condition(namespace, "early", "Ready", "False", reason="NoRunnableModel")
    assert "later" in ready["message"]
    world.await_condition(namespace, "early", "Reconciling", "True")
    assert world.pods(namespace) == []
    world.release(namespace, "later")
    world.await_ready(namespace, "early")
    assert world.get_job(namespace, "early")["status"]["modelVersion"] == "1.0.0"


def test_a_version_that_is_not_there_yet(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "pinned", model={"name": "reader", "version": "2.0.0"})
    world.await_condition(namespace, "pinned", "Ready", "False", reason="NoRunnableModel")
    world.release(namespace, version="2.0.0", digest=2)
    world.await_ready(namespace, "pinned")


def test_the_last_place_goes_to_the_higher_tier(world: World, operator: Operator, namespace: str) -> None:
    only = {"nodeSelector": {"kubernetes.io/hostname": "last-0000"}}
    low, high = {"importance": 1, "urgency": 1, "satisfaction": 1}, {"importance": 5, "urgency": 5, "satisfaction": 5}
    world.job(namespace, "low", placement=only, resources=asking("1500m"), priority=low)
    world.job(namespace, "high", placement=only, resources=asking("1500m"), priority=high)
    for name in ("low", "high"):
        world.await_condition(namespace, name, "Ready", "False", reason="NoCapacity")
    world.add_nodes("last", cpu="2", labels={"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-l"})
    try:
        world.await_ready(namespace, "high")
        waiting = world.await_condition(namespace, "low", "Ready", "False", reason="NoCapacity")
        assert "last-0000 lacks" in waiting["message"]
        told = world.get_job(namespace, "low")["status"]["explanation"]
        assert f"{namespace}/high" in told["order"] + told["message"], told
        assert world.pods(namespace, "low") == []
        world.delete(f"{world.jobs(namespace)}/high")
        world.await_ready(namespace, "low")
    finally:
        world.clear(namespace)
        world.remove_nodes("last-0000")


def test_names_at_the_length_limit(world: World, operator: Operator, namespace: str) -> None:
    names = ["n" * 63, "n" * 62 + "o"]
    for name in names:
        world.job(namespace, name, replicas=2, placement={"tiers": ["edge"]})
    world.await_ready(namespace, *names)
    assert len({item["metadata"]["name"] for item in world.assignments(namespace)}) >= 2
    services = {item["metadata"]["name"] for item in world.api.get(f"/api/v1/namespaces/{namespace}/services")["items"]}
    assert set(names) <= services


def test_a_typo_in_a_pod_template_names_the_field(world: World, operator: Operator, namespace: str) -> None:
    typo = {"spec": {"containers": [{"name": "runtime", "imagePullPolcy": "Never"}]}}
    world.job(namespace, "typo", podTemplate=typo)
    world.job(namespace, "beside")
    ready = world.await_condition(namespace, "typo", "Ready", "False", reason="InvalidSpec")
    assert "imagePullPolcy" in ready["message"]
    world.await_condition(namespace, "typo", "Stalled", "True")
    world.await_ready(namespace, "beside")
    told = time.time()
    time.sleep(3)
    tries = [w for w in world.writes(since=told) if w.resource == "deployments" and w.code >= 400]
    assert len(tries) <= 1, "what was refused is tried again and again"
    world.job(namespace, "typo", podTemplate={"spec": {"containers": [{"name": "runtime", "tty": True}]}})
    world.await_ready(namespace, "typo")
    assert world.pods(namespace, "typo")[0]["spec"]["containers"][0]["tty"] is True


def test_a_typo_in_a_running_jobs_pod_template_leaves_it_running(
    world: World, operator: Operator, namespace: str
) -> None:
    world.job(namespace, "runs", replicas=2)
    world.await_ready(namespace, "runs")
    pods = world.uids(namespace)
    world.job(namespace, "runs", replicas=2, podTemplate={"spec": {"hostNetwrk": True}})
    world.await_condition(namespace, "runs", "Ready", "False", reason="InvalidSpec")
    time.sleep(2)
    assert world.uids(namespace) == pods


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"hostNetwork": True}, "spec.podTemplate.spec.hostNetwork"),
        ({"volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}]}, "spec.podTemplate.spec.volumes[0].hostPath"),
        ({"serviceAccountName": "admin"}, "spec.podTemplate.spec.serviceAccountName"),
        (
            {"containers": [{"name": "runtime", "securityContext": {"privileged": True}}]},
            "spec.podTemplate.spec.containers[0].securityContext.privileged",
        ),
    ],
    ids=["hostNetwork", "hostPath", "serviceAccount", "privileged"],
)
def test_what_the_site_forbids(
    world: World, operator: Operator, namespace: str, template: dict[str, Any], field: str
) -> None:
    world.job(namespace, "greedy", podTemplate={"spec": template})
    ready = world.await_condition(namespace, "greedy", "Ready", "False", reason="PolicyForbids")
    assert field in ready["message"]
    world.await_condition(namespace, "greedy", "Stalled", "True")
    assert world.deployments(namespace) == []


def test_more_replicas_than_any_node_can_hold(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "many", replicas=50, placement=at_site("site-b"), resources=asking("800m"))
    ready = world.await_condition(namespace, "many", "Ready", "False", reason="NoCapacity")
    assert ready["message"].startswith("2 of 50 replicas have a node"), ready
    eventually(lambda: len(world.scheduled_on(namespace, "many")) == 2, what="two run all the same")
    world.job(namespace, "many", replicas=2, placement=at_site("site-b"), resources=asking("800m"))
    world.await_ready(namespace, "many")


def test_a_field_that_protects_something_and_does_not_work_yet(
    world: World, operator: Operator, namespace: str
) -> None:
    world.job(namespace, "kept", disconnect={"stopLocalAfter": "1h"})
    ready = world.await_condition(namespace, "kept", "Ready", "False", reason="FeatureNotYetAvailable")
    assert "spec.disconnect.stopLocalAfter" in ready["message"]
    world.await_condition(namespace, "kept", "Stalled", "True")
    assert world.pods(namespace) == []


def test_a_field_that_does_not_work_yet_and_protects_nothing(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "hopeful", overrides=[{"siteSelector": {}, "replicas": 1}])
    ignored = world.await_condition(namespace, "hopeful", "FeaturesIgnored", "True")
    assert "spec.overrides" in ignored["message"]
    world.await_ready(namespace, "hopeful")


def test_a_service_of_the_same_name_is_not_taken_over(world: World, operator: Operator, namespace: str) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "shop"},
        "spec": {"ports": [{"port": 1234}], "selector": {"app": "shop"}},
    }
    made = world.api.post(f"/api/v1/namespaces/{namespace}/services", theirs)
    world.job(namespace, "shop")
    ready = world.await_condition(namespace, "shop", "Ready", "False", reason="InvalidSpec")
    assert "shop is there already" in ready["message"]
    path = f"/api/v1/namespaces/{namespace}/services/shop"
    assert world.api.get(path)["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    world.delete(f"{world.jobs(namespace)}/shop")
    eventually(lambda: not world.assignments(namespace), what="the job is gone")
    assert world.api.get(path)["metadata"]["uid"] == made["metadata"]["uid"], "it went with the job"
    world.delete(path)
    world.job(namespace, "shop")
    world.await_ready(namespace, "shop")


def test_a_service_in_the_way_that_goes_needs_no_word_from_the_user(
    world: World, operator: Operator, namespace: str
) -> None:
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}, "spec": {"ports": [{"port": 1234}]}}
    world.api.post(f"/api/v1/namespaces/{namespace}/services", theirs)
    world.job(namespace, "shop")
    world.await_condition(namespace, "shop", "Ready", "False", reason="InvalidSpec")
    world.delete(f"/api/v1/namespaces/{namespace}/services/shop")
    world.await_ready(namespace, "shop", seconds=45)


def test_a_release_that_is_deleted_while_it_serves(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "serving", replicas=2)
    world.await_ready(namespace, "serving")
    pods = world.uids(namespace)
    world.delete(f"/apis/edgeward.dev/v1alpha1/namespaces/{namespace}/modelreleases/reader")
    missing = world.await_condition(namespace, "serving", "ModelReleaseMissing", "True")
    assert "reader" in missing["message"]
    assert world.condition(namespace, "serving", "Ready")["status"] == "True"
    # It may still be scaled: what it runs is known.
    world.job(namespace, "serving", replicas=3)
    world.await_ready(namespace, "serving")
    assert pods.items() <= world.uids(namespace).items()
    assert [item["spec"]["models"][0]["version"] for item in world.assignments(namespace)] == ["1.0.0"] * len(
        world.assignments(namespace)
    )
    world.release(namespace)
    eventually(lambda: not world.condition(namespace, "serving", "ModelReleaseMissing"), what="the condition goes")
    assert pods.items() <= world.uids(namespace).items()


def test_a_hundred_edits_in_a_row(world: World, operator: Operator, namespace: str) -> None:
    begun = time.time()
    for number in range(100):
        world.job(namespace, "edited", replicas=1 + number % 4)
    world.job(namespace, "edited", replicas=3)
    world.await_ready(namespace, "edited")
    eventually(lambda: len(world.scheduled_on(namespace, "edited")) == 3, what="the last edit wins")
    time.sleep(1)
    settled = time.time()
    time.sleep(3)
    assert [w for w in world.writes(since=settled) if w.name.startswith("edited")] == []
    refused = [w for w in world.writes(since=begun) if w.code >= 400 and w.code not in (404, 409)]
    assert refused == []


def test_a_node_that_vanishes_while_a_job_goes_there(world: World, operator: Operator, namespace: str) -> None:
    options = {"cpu": "2", "labels": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-v"}}
    world.add_nodes("vanish", **options)
    try:
        world.job(namespace, "unlucky", placement=at_site("site-v"))
        eventually(lambda: world.assignments(namespace, "unlucky"), what="it was planned", every=0.01)
        world.remove_nodes("vanish-0000")
        world.job(namespace, "beside")
        world.await_ready(namespace, "beside")
        # Where its pod came up before the node went, it stays until the garbage collector misses the node.
        ready = world.await_condition(namespace, "unlucky", "Ready", "False", seconds=100)
        assert ready["message"]
        world.add_nodes("vanish", **options)
        world.await_ready(namespace, "unlucky", seconds=40)
    finally:
        world.clear(namespace)
        world.remove_nodes("vanish-0000")
