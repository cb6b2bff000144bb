"""The loop of an agent: one Assignment at a time, from what the cache says now to what the Assignment wants.

Level-triggered: killed at any point and started again, it comes to the same objects. Nothing is deleted because
something is missing; only an Assignment's own deletionTimestamp, or a node that its spec no longer names, is a word
to delete.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from edgeward.api.assignment import Assignment
from edgeward.api.common import format_time, to_dict
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError, Client, WriteRefused
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NODES,
    PODS,
    SERVICES,
    STORAGE_CLASSES,
    VOLUME_CLAIMS,
    Object,
    Resource,
)
from edgeward.fleet.names import (
    ANNOTATION_MODELS,
    ANNOTATION_NODE,
    LABEL_ASSIGNMENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_PLACEMENT,
    LABEL_PULL,
    LABEL_SITE,
    LABEL_TIER,
    MANAGED_BY,
    is_pool,
)
from edgeward.fleet.sites import membership

from . import activation, podtemplate, surge
from .disruption import protection, users_budgets
from .document import config_revision, told_models
from .memory import with_refused
from .merge import contains
from .policy import forbidden
from .queue import KeyQueue
from .remembering import Remembering
from .removal import Removal
from .render import Child, children, config_name, peers_name, placement_name
from .report import is_ready, node_of, stamped, status
from .runtimes import Runtimes
from .settings import MANAGER, AgentSettings
from .surge import Way
from .wanted import read_assignment, without
from .watches import Asks, Watches

log = logging.getLogger(__name__)
WATCHED = (ASSIGNMENTS, NODES, PODS, DEPLOYMENTS, SERVICES, CONFIG_MAPS, VOLUME_CLAIMS, DISRUPTION_BUDGETS)
"""what the cache of an agent must hold"""
FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0
"""seconds until an object that was refused is tried again unchanged, the first time and at most"""

_AFTER = 0.05
"""seconds after a moment, so that no timer that fires a little early finds it still to come"""
_CLOCK_LOOK = 30.0
"""seconds between two looks at the clock while a version waits for its moment"""
REST = 2.0
"""of the time that a piece of work took, how much a worker leaves to others before the next, where pods do not wait for it"""


@dataclass(slots=True)
class _Known:
    """What this agent knows of an Assignment and nobody else would tell it again."""

    refused: dict[str, _Refusal] = field(default_factory=dict)
    """by kind and key, what the API server would not have"""
    applied: _Applied | None = None
    """what became of its pods; None when this agent has not seen to them yet"""


@dataclass(frozen=True, slots=True)
class _Applied:
    generation: int
    """of the Assignment"""
    forbidden: str = ""
    """what this agent will have none of, in words for the user; then nothing is changed"""
    problem: str = ""
    """empty when its pods are as wanted, else what is in the way, in words for the user"""
    held: bool = False
    """something that the pods need was refused, and with it all that comes after"""
    ways: Mapping[str, Way] = field(default_factory=dict)
    """how pods change, by node"""
    stands: bool = False
    """a Deployment was refused: its pods serve on as they were, and so does what stands before them"""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An object that was refused just as it is: trying it again at every look would be a write a second for nothing."""

    body: Object
    problem: str
    count: int
    until: float


class Agent:
    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        settings: AgentSettings,
        recorder: Recorder,
        clock: Callable[[], float] = time.time,
        prometheus: Asks | None = None,
        hub: Client | None = None,
    ) -> None:
        """client: of the cluster whose nodes and pods the cache holds. prometheus: that of the site, for the questions of
        gates. hub: of the cluster whose Assignments the cache holds; None: the same."""
        self._client = client
        self._hub = hub or client
        self._cache = cache
        self._settings = settings
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._persistent: bool | None = None
        self._labelled_sites: tuple[int, frozenset[str]] = (-1, frozenset())
        """the sites that the labels of the nodes tell, as of so many changes of nodes"""
        self.queue = KeyQueue()
        """Assignments whose pods are to be seen to: what they need, and their Deployments"""
        self.behind = KeyQueue()
        """Assignments of which the rest is to be seen to: what stands before the pods, what is to go, and the report"""
        self.watches = Watches(news=self.behind.mark, clock=clock, prometheus=prometheus)
        self._remembering = Remembering(
            client=client,
            cache=cache,
            namespace=settings.namespace,
            answers=lambda name: self.runtimes.answers(name),
            back=self.queue.mark,
            clock=lambda: self._clock(),
        )
        self.runtimes = Runtimes(
            cache=cache,
            settings=settings,
            news=self.behind.mark,
            clock=clock,
            watches=self.watches,
            judged=self._remembering.judged,
        )
        self._removal = Removal(
            client=client, hub=self._hub, cache=cache, recorder=recorder, namespace=settings.namespace
        )
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """by Assignment: one piece of work at a time"""
        self.reconciled = 0
        self.failed = 0

    def notice(self, resource: Resource, obj: Object) -> None:
        """An object changed. Marks the Assignments that care."""
        meta = obj["metadata"]
        if resource is ASSIGNMENTS:
            self.queue.mark(meta["name"])
        elif resource is PODS:
            labels = meta.get("labels") or {}
            name = labels.get(LABEL_ASSIGNMENT)
            if LABEL_PULL in labels:
                self.queue.mark(labels[LABEL_PULL])
            elif name:
                # Only a budget depends on the pods that there are, and it is seen to behind.
                self.behind.mark(name)
        elif resource is NODES:
            self._mark_users(meta["name"])
        elif resource is VOLUME_CLAIMS:
            # Of a node and a namespace, whatever jobs use it: no label of its own names them.
            self._mark_users((meta.get("annotations") or {}).get(ANNOTATION_NODE, ""), namespace=meta["namespace"])
        elif resource is DISRUPTION_BUDGETS and (meta.get("labels") or {}).get(LABEL_MANAGED_BY) != MANAGED_BY:
            for assignment in self._assignments():
                if assignment["spec"]["job"]["namespace"] == meta["namespace"]:
                    self.queue.mark(assignment["metadata"]["name"])
        else:
            labels = meta.get("labels") or {}
            name = labels.get(LABEL_ASSIGNMENT)
            if name:
                self.queue.mark(name)
            elif labels.get(LABEL_MANAGED_BY) == MANAGED_BY and labels.get(LABEL_JOB):
                for assignment in self._assignments():
                    job = assignment["spec"]["job"]
                    if job["name"] == labels[LABEL_JOB] and job["namespace"] == meta.get("namespace"):
                        self.queue.mark(assignment["metadata"]["name"])

    def _mark_users(self, node: str, *, namespace: str = "") -> None:
        for assignment in self._assignments():
            spec = assignment["spec"]
            if namespace in ("", spec["job"]["namespace"]) and any(
                item["name"] == node for item in spec.get("nodes") or []
            ):
                self.queue.mark(assignment["metadata"]["name"])

    async def run(self, *, workers: int = 8, workers_behind: int = 2) -> None:
        """Until cancelled. The cache must have been seeded.

        In a burst the pods of all come before the rest of any: more workers see to them, so the API server does too.
        """
        await self._look_for_store_class()
        for assignment in self._assignments():
            self.queue.mark(assignment["metadata"]["name"])
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self.queue.work(self.reconcile, failed=self._note_failure))
            for _ in range(workers_behind):
                group.create_task(self.behind.work(self.settle, failed=self._note_failure, rest=REST))
            group.create_task(self.runtimes.watch())
            group.create_task(self._resync())

    async def close(self) -> None:
        self.watches.close()
        await self.runtimes.close()

    async def reconcile(self, name: str) -> None:
        """The pods of an Assignment and what they need; or its end."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            raw = self._cache[ASSIGNMENTS].get(f"{self._settings.namespace}/{name}")
            if raw is None:
                # Merely missing is no word to delete anything: what runs goes on, and is taken over when it is back.
                self._forget(name)
                return
            if "deletionTimestamp" in raw["metadata"]:
                if await self._removal.remove(raw):
                    self._forget(name)
                return
            assignment = read_assignment(raw)
            if assignment is None:
                return
            await self._remembering.update(assignment)
            refused = "; ".join(forbidden(assignment.spec.pod_template or {}))
            if refused:
                self._of(name).applied = _Applied(assignment.generation, forbidden=f"PolicyForbids {refused}")
            else:
                self._of(name).applied = await self._apply_pods(assignment)
                self._come_back_for(assignment)
        self.behind.mark(name)

    async def settle(self, name: str) -> None:
        """The rest, once the pods have been seen to."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            raw = self._cache[ASSIGNMENTS].get(f"{self._settings.namespace}/{name}")
            if raw is None:
                return
            if "deletionTimestamp" in raw["metadata"]:
                self.queue.mark(name)  # a pod may have gone that its end waits for
                return
            applied, assignment = self._of(name).applied, read_assignment(raw)
            if assignment is None or applied is None or applied.generation != assignment.generation:
                return  # its pods come first, and this after them
            await self._remembering.update(assignment)
            await self._report(assignment, raw, applied.forbidden or await self._apply_rest(assignment, applied))
            if not applied.forbidden and self._ways(assignment) != applied.ways:
                self.queue.mark(name)
            self.reconciled += 1

    def _come_back_for(self, assignment: Assignment) -> None:
        """At the moment at which a version that waits on the site's disk may begin. The clock may be set meanwhile, so
        it is looked at again in between."""
        config = self._cache[CONFIG_MAPS].get(f"{assignment.spec.job.namespace}/{config_name(assignment)}")
        now = self._clock()
        moment = activation.parts(assignment, told=told_models(config), now=now).next
        if moment is not None:
            self.queue.mark_later(assignment.name, min(max(moment - now, 0.0) + _AFTER, _CLOCK_LOOK))

    # What an Assignment wants ------------------------------------------------------------------------------------

    def _children(self, assignment: Assignment, ways: Mapping[str, Way]) -> list[Child]:
        namespace = assignment.spec.job.namespace
        config = self._cache[CONFIG_MAPS].get(f"{namespace}/{config_name(assignment)}")
        gone = self._remembering.gone(assignment)
        if gone:
            models = without(assignment.spec.models, gone, present=told_models(config))
            spec = assignment.spec.model_copy(update={"models": models})
            assignment = assignment.model_copy(update={"spec": spec})
        return children(
            assignment,
            tiers=self._tiers(assignment),
            settings=self._settings,
            persistent=bool(self._persistent),
            config=config,
            now=self._clock(),
            deployments=[
                self._cache[DEPLOYMENTS].get(f"{namespace}/{placement_name(assignment, node.name)}")
                for node in assignment.spec.nodes
            ],
            site_service=self._has_site_service(assignment) or self._sites_here() > 1,
            users_budget=bool(self._users_budgets(assignment)),
            ways=ways,
        )

    def _ways(self, assignment: Assignment) -> dict[str, Way]:
        """By node, how its pods change, where that is not by a surge. What only time will tell is looked at again then."""
        found: dict[str, Way] = {}
        now, spec = self._clock(), assignment.spec
        recreate = spec.effective.update == "Recreate"
        pods: dict[str, list[Object]] = {}
        for pod in self._pods(assignment.name):
            pods.setdefault(node_of(pod), []).append(pod)
        spare = {node.name for node in spec.nodes if node.leaving and not node.replicas}
        serving = {name for name in spare if any(is_ready(pod) for pod in pods.get(name, ()))}
        at = {
            node.name: self._cache[DEPLOYMENTS].get(f"{spec.job.namespace}/{placement_name(assignment, node.name)}")
            for node in spec.nodes
            if not is_pool(node.name)  # whose autoscaler makes room
        }
        gaps = sum(surge.is_in_place(one) for one in at.values() if one is not None)
        for node in (one for one in spec.nodes if one.name in at):
            taken, due = surge.way(
                present=at[node.name],
                revision=podtemplate.revision(assignment, node),
                pods=pods.get(node.name, ()),
                pulls=self._pulls(assignment, node.name) if recreate else (),
                recreate=recreate and not spare,
                spare=bool(serving - {node.name}),
                turn=gaps < max(len(serving), 1),
                now=now,
                patience=self._settings.surge_patience,
            )
            if taken is not Way.SURGE:
                found[node.name] = taken
                present = at[node.name]
                gaps += taken is Way.IN_PLACE and present is not None and not surge.is_in_place(present)
            if due is not None:
                self.queue.mark_later(assignment.name, max(due - now, 0.0) + 0.05)
        return found

    async def _apply_pods(self, assignment: Assignment) -> _Applied:
        ways = self._ways(assignment)
        wanted = self._children(assignment, ways)
        # Claims first: a scheduler that finds none puts the pod back for seconds. The models take less time to write
        # than a pod takes to need them.
        claims, _ = await self._apply_all(assignment, wanted, VOLUME_CLAIMS)
        if claims:
            return _Applied(assignment.generation, problem=claims, held=True, ways=ways)
        problem, refused = await self._apply_all(assignment, wanted, CONFIG_MAPS, DEPLOYMENTS)
        return _Applied(assignment.generation, problem=problem, stands=DEPLOYMENTS in refused, ways=ways)

    async def _apply_rest(self, assignment: Assignment, applied: _Applied) -> str:
        """Empty when all is in place, else what is in the way, in words for the user."""
        wanted, problem = self._children(assignment, applied.ways), ""
        if not applied.held:
            problem, _ = await self._apply_all(assignment, wanted, SERVICES, DISRUPTION_BUDGETS)
        await self._drop_unwanted(assignment, {child.name for child in wanted}, only_deployments=applied.stands)
        await self._touch_pods(assignment)
        return applied.problem or problem

    async def _apply_all(
        self, assignment: Assignment, wanted: list[Child], *resources: Resource
    ) -> tuple[str, set[Resource]]:
        """The children of some kinds: the first problem, and the kinds of which any was refused."""
        group = [child for child in wanted if child.resource in resources]
        problems = await asyncio.gather(*(self._apply(assignment, child) for child in group))
        refused = {child.resource for child, problem in zip(group, problems, strict=True) if problem}
        return next(filter(None, problems), ""), refused

    async def _apply(self, assignment: Assignment, child: Child) -> str:
        """Empty when the child is as wanted, else why the API server will not have it, in words for the user."""
        store = self._cache[child.resource]
        present = store.get(child.key)
        if present is not None and child.resource is VOLUME_CLAIMS and "deletionTimestamp" in present["metadata"]:
            # Nothing can be applied over it; pods that hold it serve on, and it is made anew once it is gone.
            self.queue.mark_later(assignment.name, FIRST_RETRY)
            return ""
        # A claim is immutable where it differs; what was made is good enough.
        if present is not None and (child.resource is VOLUME_CLAIMS or contains(present, child.body)):
            return ""
        refusals = self._of(assignment.name).refused
        about = f"{child.resource.kind} {child.key}"
        before = refusals.get(about)
        if before is not None and before.body == child.body and self._clock() < before.until:
            return before.problem
        try:
            if child.resource is SERVICES:
                await self._refuse_foreign(child, present)
            store.put(await self._client.apply(child.resource, child.body, manager=MANAGER, strict=True))
        except ApiError as error:
            if not error.invalid and not error.not_found:
                raise
            # The user is told. A change is a new try at once; what is in the way may also go without one.
            log.warning("assignment %s: %s %s: %s", assignment.name, child.resource.kind, child.name, error)
            reason = "PolicyForbids" if error.status == 403 else "InvalidSpec"
            problem = f"{reason} {child.resource.kind} {child.name} was refused: {error.message}"
            count = before.count + 1 if before is not None and before.body == child.body else 0
            wait = min(FIRST_RETRY * 2.0 ** min(count, 10), LONGEST_RETRY)
            refusals[about] = _Refusal(child.body, problem, count, self._clock() + wait)
            self.queue.mark_later(assignment.name, wait)
            return problem
        refusals.pop(about, None)
        return ""

    async def _refuse_foreign(self, child: Child, present: Object | None) -> None:
        """A Service carries the job's own name: one that somebody else, or another job, has under it is not taken over."""
        meta = child.body["metadata"]
        try:
            found = present or await self._client.get(child.resource, meta["namespace"], meta["name"])
        except ApiError as error:
            if error.not_found:
                return
            raise
        labels = found["metadata"].get("labels") or {}
        if labels.get(LABEL_MANAGED_BY) != MANAGED_BY:
            message = f"{meta['name']} is there already and Edgeward did not make it; rename the job or remove it"
            raise ApiError(422, "AlreadyExists", message)
        if labels.get(LABEL_JOB) != meta["labels"][LABEL_JOB]:
            raise ApiError(
                422, "AlreadyExists", f"{meta['name']} belongs to the job {labels.get(LABEL_JOB)}; rename one"
            )

    async def _drop_unwanted(self, assignment: Assignment, names: set[str], *, only_deployments: bool) -> None:
        for resource in (DEPLOYMENTS, DISRUPTION_BUDGETS, SERVICES):
            if only_deployments and resource is not DEPLOYMENTS:
                continue
            for obj in self._cache[resource].labelled(LABEL_ASSIGNMENT, assignment.name):
                meta = obj["metadata"]
                if meta["name"] not in names and "deletionTimestamp" not in meta:
                    await self._client.delete(resource, meta["namespace"], meta["name"], uid=meta["uid"])

    async def _touch_pods(self, assignment: Assignment) -> None:
        """Make the kubelet refresh the ConfigMap of every pod whose runtime has not read the newest one."""
        config = self._cache[CONFIG_MAPS].get(f"{assignment.spec.job.namespace}/{config_name(assignment)}")
        revision = config_revision(config)
        answers = self.runtimes.answers(assignment.name)
        for pod in self._pods(assignment.name):
            meta = pod["metadata"]
            answer = answers.get(meta["uid"])
            touched = (meta.get("annotations") or {}).get(ANNOTATION_MODELS)
            if answer is None or "deletionTimestamp" in meta:
                continue
            if int(answer.get("revision") or 0) < revision and touched != str(revision):
                patch = {"metadata": {"annotations": {ANNOTATION_MODELS: str(revision)}}}
                await self._client.merge(PODS, meta["namespace"], meta["name"], patch, manager=MANAGER)
                self.runtimes.look_soon(assignment.name)

    # What is reported --------------------------------------------------------------------------------------------

    async def _report(self, assignment: Assignment, raw: Object, problem: str) -> None:
        reason, _, message = problem.partition(" ")
        conditions: list[dict[str, Any]] = [
            {
                "type": "Applied",
                "status": "False" if problem else "True",
                "reason": reason or "Applied",
                "message": message,
                "observedGeneration": assignment.generation,
            },
            {
                "type": "StorePersistent",
                **self._store(assignment),
                "observedGeneration": assignment.generation,
            },
        ]
        protected = protection(self._users_budgets(assignment))
        if protected:
            conditions.append(
                {
                    "type": "Protected",
                    "status": "True",
                    "reason": "DisruptionBudget",
                    "message": protected,
                    "observedGeneration": assignment.generation,
                }
            )
        present = raw.get("status") or {}
        wanted = status(
            assignment,
            pods=self._pods(assignment.name),
            deployments={
                (item["metadata"].get("annotations") or {}).get(ANNOTATION_NODE, ""): item
                for item in self._cache[DEPLOYMENTS].labelled(LABEL_ASSIGNMENT, assignment.name)
            },
            nodes=self._nodes_of(assignment),
            runtimes=self.runtimes.answers(assignment.name),
            applied_revision=present.get("appliedRevision", 0) if problem else assignment.spec.revision,
            conditions=conditions,
        )
        wanted |= self.watches.status(assignment)
        known = self._remembering.of(assignment)
        wanted["models"] = with_refused(wanted["models"], assignment.spec.models, known)
        if known:
            wanted["refused"] = [to_dict(one) for one in known]
        wanted = stamped(wanted, present, now=format_time(self._clock()))
        if wanted == present:
            return
        body = {"metadata": {"name": assignment.name, "namespace": assignment.namespace}, "status": wanted}
        answer = await self._hub.apply(ASSIGNMENTS, body, manager=MANAGER, subresource="status")
        self._cache[ASSIGNMENTS].put(answer)

    def _store(self, assignment: Assignment) -> dict[str, str]:
        """Whether models outlive their pods, as a condition's status, reason and message."""
        again = "models are fetched again when a pod is replaced"
        if any(is_pool(node.name) for node in assignment.spec.nodes):
            return {
                "status": "False",
                "reason": "ElasticSite",
                "message": f"the nodes of the site come and go; {again}",
            }
        if not self._persistent:
            message = f"no StorageClass {self._settings.store_class!r}; {again}"
            return {"status": "False", "reason": "NoStorageClass", "message": message}
        return {"status": "True", "reason": "NodeLocalClass", "message": ""}

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync)
            await self._look_for_store_class()
            for assignment in self._assignments():
                self.queue.mark(assignment["metadata"]["name"])

    async def _look_for_store_class(self) -> None:
        """Without a node-local class the store is an emptyDir. What a pod was made with is not changed under it."""
        if not self._settings.store_class:
            self._persistent = False
            return
        try:
            await self._client.get(STORAGE_CLASSES, "", self._settings.store_class)
            self._persistent = True
        except ApiError as error:
            if error.not_found or error.status == 403:
                self._persistent = False
            elif self._persistent is None:
                raise

    # Small look-ups ----------------------------------------------------------------------------------------------

    def _of(self, name: str) -> _Known:
        return self._known.setdefault(name, _Known())

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        self._remembering.forget(name)
        self.runtimes.forget(name)

    def _assignments(self) -> list[Object]:
        return self._cache[ASSIGNMENTS].all()

    def _pods(self, name: str) -> list[Object]:
        return self._cache[PODS].labelled(LABEL_ASSIGNMENT, name)

    def _pulls(self, assignment: Assignment, node: str) -> list[Object]:
        """The pods that bring the images of its pods to a node."""
        name = surge.pull_name(placement_name(assignment, node))
        found = self._cache[PODS].labelled(LABEL_PULL, assignment.name)
        return [pod for pod in found if pod["metadata"]["labels"].get(LABEL_PLACEMENT) == name]

    def _nodes_of(self, assignment: Assignment) -> dict[str, Object]:
        """The nodes that it names and that there are, by name."""
        found = ((node.name, self._cache[NODES].get(node.name)) for node in assignment.spec.nodes)
        return {name: node for name, node in found if node is not None}

    def _users_budgets(self, assignment: Assignment) -> list[Object]:
        return users_budgets(self._cache[DISRUPTION_BUDGETS].all(), self._pods(assignment.name))

    def _tiers(self, assignment: Assignment) -> dict[str, str]:
        return {
            name: (node["metadata"].get("labels") or {}).get(LABEL_TIER, "")
            for name, node in self._nodes_of(assignment).items()
        }

    def _sites_here(self) -> int:
        """How many sites this cluster holds, by what is assigned to it and by its nodes' labels."""
        nodes = self._cache[NODES]
        if self._labelled_sites[0] != nodes.changes:
            labels = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in nodes.all()}
            self._labelled_sites = nodes.changes, frozenset(membership(labels, ()).site.values())
        return len(self._cache[ASSIGNMENTS].values(LABEL_SITE) | self._labelled_sites[1])

    def _has_site_service(self, assignment: Assignment) -> bool:
        """One that was made stays with its Assignment: clients use it, however the nodes come and go."""
        services = self._cache[SERVICES].labelled(LABEL_ASSIGNMENT, assignment.name)
        return any(item["metadata"]["name"] != peers_name(assignment) for item in services)

    def _note_failure(self, name: str, error: Exception) -> None:
        self.failed += 1
        if isinstance(error, ApiError | WriteRefused):
            log.warning("assignment %s: %s", name, error)
        else:
            log.error("assignment %s failed", name, exc_info=error)
