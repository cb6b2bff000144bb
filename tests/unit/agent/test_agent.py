"""The loop of an agent against an API in memory: what it writes, what it removes, whom it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edgeward.agent import podtemplate
from edgeward.agent.agent import WATCHED, Agent
from edgeward.agent.render import placement_name
from edgeward.agent.settings import AgentSettings
from edgeward.agent.surge import Way
from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NODES,
    PODS,
    VOLUME_CLAIMS,
    Object,
    Resource,
)
from tests.fakes import FakeClient
from tests.unit.fleet.objects import Raw, assignment, node

NAME = "signs-edge"
LONG_AGO = "2020-01-01T00:00:00Z"


class Api(FakeClient):
    """Takes every write but those of the kinds in `refused`, and notes it."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused
        self.version = 100
        self.done: list[tuple[str, str, str]] = []

    def of(self, verb: str, kind: str) -> list[str]:
        return [name for said, about, name in self.done if (said, about) == (verb, kind)]

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        raise ApiError(404, "NotFound", name)

    async def apply(self, resource: Resource, body: Object, **_: Any) -> Object:
        if resource.kind in self.refused:
            raise ApiError(422, "Invalid", "not like this")
        self.done.append(("apply", resource.kind, body["metadata"]["name"]))
        self.version += 1
        meta = {**body["metadata"], "uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
        if resource is ASSIGNMENTS:
            # A status alone: the rest stays as it is.
            whole = told()[1]
            return {**whole, **body, "metadata": {**whole["metadata"], **meta}}
        return {**body, "metadata": meta}

    async def merge(self, resource: Resource, namespace: str, name: str, patch: Object, *, manager: str) -> Object:
        self.done.append(("merge", resource.kind, name))
        return {}

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str = "") -> None:
        self.done.append(("delete", resource.kind, name))


def an_agent(api: Api, *objects: tuple[Resource, Raw], persistent: bool = False) -> Agent:
    cache = Cache()
    for resource in WATCHED:
        cache.add(resource)
    for resource, obj in objects:
        cache[resource].put(obj)
    agent = Agent(client=api, cache=cache, settings=AgentSettings(), recorder=Recorder(api, "edgeward-agent"))
    agent._persistent = persistent
    return agent


def told(**more: Any) -> tuple[Resource, Raw]:
    return ASSIGNMENTS, assignment({"name": "n1", "replicas": 1}, **more)


def child(name: str, *, labels: Raw | None = None, version: int = 1, **meta: Any) -> Raw:
    own = {"app.kubernetes.io/managed-by": "edgeward", **(labels or {})}
    about = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": str(version), "labels": own}
    return {"metadata": {**about, **meta}}


def a_pod(name: str, *, phase: str = "Running", on: str = "n1") -> Raw:
    body = child(name, labels={"edgeward.dev/assignment": NAME}, annotations={"edgeward.dev/node": on})
    status = {"phase": phase, "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {**body, "spec": {"nodeName": on}, "status": status if phase == "Running" else {"phase": phase}}


def reconciled(agent: Agent) -> None:
    async def both() -> None:
        await agent.reconcile(NAME)
        await agent.settle(NAME)

    asyncio.run(both())


def test_a_refused_child_does_not_keep_what_no_longer_belongs() -> None:
    """A Service that was refused kept the pods of a node that the Assignment had long left."""
    mine = {"edgeward.dev/assignment": NAME}
    old, budget = (DEPLOYMENTS, child("signs-old", labels=mine)), child("signs-budget", labels=mine)
    for refused, gone in (("Service", 1), ("Deployment", 0)):
        api = Api(refused)
        agent = an_agent(api, told(), (NODES, node()), old, (PODS, a_pod("p")))
        agent._cache.stores["poddisruptionbudgets"].put(budget)
        agent.runtimes.of(NAME).answers["uid-p"] = {"contract": 1, "revision": 1, "models": []}
        reconciled(agent)
        assert api.of("delete", "Deployment") == ["signs-old"]
        assert len(api.of("delete", "PodDisruptionBudget")) == gone
        assert api.of("merge", "Pod") == ["p"], "its runtime has not read the newest models"


def test_a_claim_that_is_going_is_made_anew_once_it_is_gone() -> None:
    claim = child("edgeward-store", annotations={"edgeward.dev/node": "n1"})
    api = Api()
    agent = an_agent(api, told(), (NODES, node()), persistent=True)
    reconciled(agent)
    (name,) = api.of("apply", "PersistentVolumeClaim")

    async def while_it_goes() -> int:
        going = child(name, deletionTimestamp="2027-01-01T00:00:00Z", version=900)
        agent._cache[VOLUME_CLAIMS].put(going)
        api.done.clear()
        await agent.reconcile(NAME)
        return len(agent.queue._timers)

    assert asyncio.run(while_it_goes()) == 1, "looked at again soon"
    assert api.of("apply", "PersistentVolumeClaim") == []
    before = len(agent.queue)
    agent.notice(VOLUME_CLAIMS, child("x", annotations={"edgeward.dev/node": "n2"}))
    assert len(agent.queue) == before, "no Assignment uses that node"
    agent.notice(VOLUME_CLAIMS, claim)
    assert len(agent.queue) == before + 1


def test_a_job_at_one_of_several_sites_has_that_sites_service_and_keeps_it() -> None:
    near, far = node("n1", edgeward_dev__site="edge"), node("n2", edgeward_dev__site="other")
    api = Api()
    reconciled(an_agent(api, told(), (NODES, near)))
    assert api.of("apply", "Service") == ["signs"], "one site"
    api = Api()
    agent = an_agent(api, told(), (NODES, near), (NODES, far))
    reconciled(agent)
    assert sorted(api.of("apply", "Service")) == ["signs", "signs-edge"]
    agent._cache[NODES].event("DELETED", agent._cache[NODES].objects["n2"])
    reconciled(agent)
    assert api.of("delete", "Service") == [], "it serves on while the Assignment lives"


def test_one_assignment_that_does_not_answer_holds_up_no_other_and_is_asked_once_at_a_time() -> None:
    async def play() -> list[str]:
        agent, asked = an_agent(Api(), told(), (ASSIGNMENTS, assignment(site="cut"))), []

        async def ask(raw: Object) -> None:
            asked.append(raw["metadata"]["name"])
            if raw["metadata"]["name"] == "signs-cut":
                await asyncio.sleep(60)

        agent.runtimes.ask = ask  # type: ignore[method-assign]
        task = asyncio.create_task(agent.runtimes.watch())
        await asyncio.sleep(1.3)
        task.cancel()
        return asked

    asked = asyncio.run(play())
    assert asked.count("signs-cut") == 1 and asked.count(NAME) >= 2


def test_one_assignment_whose_look_fails_ends_no_other_and_is_not_asked_at_once_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What failed there ended the whole agent, again and again."""

    async def play() -> list[str]:
        agent, asked = an_agent(Api(), told(), (ASSIGNMENTS, assignment(site="odd"))), []

        async def ask(raw: Object) -> None:
            asked.append(raw["metadata"]["name"])
            if raw["metadata"]["name"] == "signs-odd":
                raise KeyError("nobody thought of this")

        agent.runtimes.ask = ask  # type: ignore[method-assign]
        task = asyncio.create_task(agent.runtimes.watch())
        await asyncio.sleep(1.3)
        task.cancel()
        return asked

    asked = asyncio.run(play())
    assert asked.count("signs-odd") == 1 and asked.count(NAME) >= 2
    assert "signs-odd" in caplog.text


def test_only_what_lives_on_a_node_that_is_ready_is_asked_and_waited_for() -> None:
    agent = an_agent(Api(), told(), (NODES, node()), (NODES, node("n2", ready=False)))
    for pod in (a_pod("up"), a_pod("cut", on="n2"), a_pod("ended", phase="Failed")):
        agent._cache[PODS].put(pod)
    asked: list[str] = []
    says = {"models": [{"digest": assignment()["spec"]["models"][0]["digest"], "serving": True}]}

    async def ask(pods: Any) -> dict[str, Object]:
        asked.extend(pod["metadata"]["name"] for pod in pods)
        return {"uid-up": says}

    agent.runtimes._scraper.ask = ask  # type: ignore[method-assign]
    asyncio.run(agent.runtimes.ask(told()[1]))
    assert asked == ["up"]
    agent._cache[PODS].event("DELETED", agent._cache[PODS].objects["shop/cut"])
    asyncio.run(agent.runtimes.ask(told()[1]))
    assert agent.runtimes.of(NAME).pause == AgentSettings().settled_poll, "the ended pod is not waited for"


def test_counters_are_read_and_are_no_news() -> None:
    agent = an_agent(Api(), told(), (NODES, node()))
    agent._cache[PODS].put(a_pod("up"))
    news: list[str] = []
    agent.runtimes._news = news.append
    said = {"models": [{"digest": "sha256:x", "serving": False, "state": "Loading", "counters": {"requests": 0}}]}

    def asked(**more: Any) -> None:
        (model,) = said["models"]

        async def ask(_pods: Any) -> dict[str, Object]:
            return {"uid-up": {"models": [{**model, **more}]}}

        agent.runtimes._scraper.ask = ask  # type: ignore[method-assign]
        asyncio.run(agent.runtimes.ask(told()[1]))

    asked()
    asked(counters={"requests": 7})
    assert news == [NAME] and agent.runtimes.of(NAME).pause > AgentSettings().unsettled_poll
    assert agent.runtimes.answers(NAME)["uid-up"]["models"][0]["counters"] == {"requests": 7}
    asked(counters={"requests": 9}, state="Warming")
    assert news == [NAME] * 2


@pytest.mark.parametrize("while_asking", [False, True])
def test_a_settled_runtime_that_is_told_something_new_is_asked_often_again(while_asking: bool) -> None:
    """It takes a second or two to do what it is told: the first look after it says nothing new."""
    now = [1000.0]
    agent = an_agent(Api(), told(), (NODES, node()))
    runtimes = agent.runtimes
    runtimes._clock = lambda: now[0]
    agent._cache[PODS].put(a_pod("up"))
    digest = told()[1]["spec"]["models"][0]["digest"]
    during: list[Callable[[], None]] = []

    async def ask(_pods: Any) -> dict[str, Object]:
        for call in during:
            call()
        return {"uid-up": {"models": [{"digest": digest, "serving": True, "state": "Serving"}]}}

    runtimes._scraper.ask = ask  # type: ignore[method-assign]
    asyncio.run(runtimes.ask(told()[1]))
    assert runtimes.of(NAME).next == now[0] + AgentSettings().settled_poll
    if while_asking:
        during.append(lambda: runtimes.look_soon(NAME))
        asyncio.run(runtimes.ask(told()[1]))
        assert runtimes.of(NAME).next <= now[0]
        during.clear()
    changed = told()[1]
    changed["spec"]["models"][0]["digest"] = f"sha256:{5:064x}"
    asyncio.run(runtimes.ask(changed))
    assert runtimes.of(NAME).next == now[0] + AgentSettings().unsettled_poll


def test_bytes_that_come_are_told_now_and_then() -> None:
    now = [1000.0]
    agent = an_agent(Api(), told(), (NODES, node()))
    agent.runtimes._clock = lambda: now[0]
    agent._cache[PODS].put(a_pod("up"))
    news: list[float] = []
    agent.runtimes._news = lambda _name: news.append(now[0])
    digest = told()[1]["spec"]["models"][0]["digest"]

    def asked(at: float, **more: Any) -> None:
        now[0] = at
        model = {"digest": digest, "serving": False, "state": "Fetching", **more}

        async def ask(_pods: Any) -> dict[str, Object]:
            return {"uid-up": {"models": [model]}}

        agent.runtimes._scraper.ask = ask  # type: ignore[method-assign]
        asyncio.run(agent.runtimes.ask(told()[1]))

    for second in range(21):
        asked(1000.0 + second, received=1 + second * 1000)
    assert news == [1000.0, 1005.0, 1010.0, 1015.0, 1020.0]
    for second in range(21, 60):
        asked(1000.0 + second, received=20_001)
    assert len(news) == 5, "nothing came"
    asked(1061.0, received=20_001, shared=9)
    assert news[-1] == 1061.0
    asked(1062.0, received=20_001, shared=10, state="Serving", serving=True)
    assert news[-1] == 1062.0, "what came in the end goes with what it is about"


def test_a_budget_of_the_users_takes_the_place_of_ours_and_protects_while_it_allows_nothing() -> None:
    theirs = {
        "metadata": {"name": "keep", "namespace": "shop", "uid": "u", "resourceVersion": "5"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"edgeward.dev/assignment": NAME}}},
        "status": {"disruptionsAllowed": 0},
    }
    ours = child("signs-budget", labels={"edgeward.dev/assignment": NAME})
    api = Api()
    agent = an_agent(api, told(), (NODES, node()), (PODS, a_pod("p")), (DISRUPTION_BUDGETS, ours))
    agent.notice(DISRUPTION_BUDGETS, {**theirs, "metadata": {**theirs["metadata"], "namespace": "elsewhere"}})
    assert len(agent.queue) == 0
    for allowed, protected in ((0, ["PodDisruptionBudget shop/keep allows no disruption now"]), (1, [])):
        version = {**theirs["metadata"], "resourceVersion": str(6 + allowed)}
        agent._cache[DISRUPTION_BUDGETS].put({**theirs, "metadata": version, "status": {"disruptionsAllowed": allowed}})
        agent.notice(DISRUPTION_BUDGETS, theirs)
        assert len(agent.queue) == 1
        reconciled(agent)
        conditions = agent._cache[ASSIGNMENTS].get(f"edgeward/{NAME}")["status"]["conditions"]  # type: ignore[index]
        assert [item["message"] for item in conditions if item["type"] == "Protected"] == protected
    assert api.of("apply", "PodDisruptionBudget") == []
    assert api.of("delete", "PodDisruptionBudget") == ["signs-budget", "signs-budget"]


def test_the_pods_come_first_and_the_rest_behind_them() -> None:
    """In a burst of jobs every worker was busy with Services, budgets and reports while Deployments waited."""
    api = Api()
    agent = an_agent(api, told(), (NODES, node()))
    asyncio.run(agent.settle(NAME))
    assert api.done == [], "its pods have not been seen to"
    asyncio.run(agent.reconcile(NAME))
    assert {kind for _, kind, _ in api.done} == {"ConfigMap", "Deployment"}
    assert len(agent.behind) == 1
    api.done.clear()
    asyncio.run(agent.settle(NAME))
    assert {kind for _, kind, _ in api.done} == {"Service", "PodDisruptionBudget", "Assignment"}


def test_a_report_never_tells_of_a_spec_whose_pods_were_not_seen_to() -> None:
    api = Api()
    agent = an_agent(api, told(), (NODES, node()))
    reconciled(agent)
    resource, newer = told()
    newer = {**newer, "metadata": {**newer["metadata"], "generation": 9, "resourceVersion": "900"}}
    agent._cache[resource].put(newer)
    api.done.clear()
    asyncio.run(agent.settle(NAME))
    assert api.done == []
    reconciled(agent)
    assert api.of("apply", "Assignment") == [NAME]


def test_a_pod_that_changes_is_reported_and_its_children_are_not_looked_at() -> None:
    agent = an_agent(Api(), told(), (NODES, node()))
    agent.notice(PODS, a_pod("p"))
    assert (len(agent.queue), len(agent.behind)) == (0, 1)


def test_the_end_of_an_assignment_goes_on_when_one_of_its_pods_has_gone() -> None:
    resource, raw = told()
    ending = {**raw, "metadata": {**raw["metadata"], "deletionTimestamp": "2027-01-01T00:00:00Z"}}
    agent = an_agent(Api(), (resource, ending))
    asyncio.run(agent.settle(NAME))
    assert len(agent.queue) == 1


def test_an_assignment_is_worked_on_by_one_worker_at_a_time() -> None:
    """A Service written while its Assignment was being removed would stay for good."""

    class Slow(Api):
        under_way, most = 0, 0

        async def apply(self, resource: Resource, body: Object, **more: Any) -> Object:
            if resource in (DEPLOYMENTS, DISRUPTION_BUDGETS):
                Slow.under_way += 1
                Slow.most = max(Slow.most, Slow.under_way)
                for _turn in range(5):
                    await asyncio.sleep(0)
                Slow.under_way -= 1
            return await super().apply(resource, body, **more)

    async def play() -> None:
        agent = an_agent(Slow(), told(), (NODES, node()))
        await agent.reconcile(NAME)
        agent._cache[DEPLOYMENTS].objects.clear()
        await asyncio.gather(agent.settle(NAME), agent.reconcile(NAME))

    asyncio.run(play())
    assert Slow.most == 1


def test_an_image_on_one_node_is_on_no_other() -> None:
    """The pods that pull have the same revision on all nodes of a site: one that was through let them all begin."""
    name, raw = NAME, assignment({"name": "n1", "replicas": 1}, {"name": "n2", "replicas": 1})
    raw["spec"]["effective"] = {"update": "Recreate"}
    read = parse(Assignment, raw)
    revision = podtemplate.revision(read, read.spec.nodes[0])
    objects: list[tuple[Resource, Raw]] = [(ASSIGNMENTS, raw)]
    for node_name in ("n1", "n2"):
        placed = placement_name(read, node_name)
        body = child(
            placed, labels={"edgeward.dev/assignment": name}, annotations={"edgeward.dev/pod-revision": revision}
        )
        body["metadata"]["generation"] = 1
        state = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1}
        objects.append((DEPLOYMENTS, {**body, "spec": {"replicas": 1}, "status": state}))
        stuck = a_pod(f"new-{node_name}", on=node_name)
        lacks = {
            "type": "PodScheduled",
            "status": "False",
            "message": "Insufficient cpu",
            "lastTransitionTime": LONG_AGO,
        }
        objects += [
            (PODS, {**stuck, "status": {"conditions": [lacks]}}),
            (PODS, a_pod(f"old-{node_name}", on=node_name)),
        ]
    labels = {"edgeward.dev/pull": name, "edgeward.dev/placement": f"{placement_name(read, 'n2')}-pull"}
    puller = child("puller", labels=labels, annotations={"edgeward.dev/pod-revision": revision})
    ran = {"containerStatuses": [{"state": {"terminated": {}}}]}
    objects.append((PODS, {**puller, "spec": {"containers": [{"name": "image-0"}]}, "status": ran}))
    assert an_agent(Api(), *objects)._ways(read) == {"n1": Way.PULL, "n2": Way.IN_PLACE}
