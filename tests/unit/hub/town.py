"""A whole fleet in a dictionary: the hub's pure half as it is, and a cluster that does what it is told, in its own time.

Pods take a while to start and to go, and the scheduler gives a pod no room that another has. Time goes on in steps.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import format_time, parse, parse_cpu, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.fleet.build import build
from edgeward.fleet.model import Fleet, Live, Sample
from edgeward.hub.narrate import job_events
from edgeward.hub.publish import publish
from edgeward.hub.status import job_status
from edgeward.placement import Plan, PlanSettings, plan
from edgeward.rollout.step import step
from tests.unit.fleet.objects import DIGEST, NOW, Raw, release


@dataclass
class Pod:
    assignment: str
    node: str
    cpu: int
    bound_at: float | None = None
    """None: the scheduler found no room yet"""
    gone_at: float | None = None
    """None: it is meant to stay"""


@dataclass
class Town:
    nodes: dict[str, Raw]
    jobs: dict[str, Raw]
    """by name"""
    settings: PlanSettings = field(default_factory=PlanSettings)
    now: float = NOW
    takes: float = 10.0
    """seconds from bound to Ready"""
    grace: float = 10.0
    """seconds from deleted to gone"""
    used: dict[str, float] = field(default_factory=dict)
    """cores in use by node, as a scrape of just now would say"""
    assignments: dict[str, Raw] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    """(job, reason, message)"""
    served: list[Counter[str]] = field(default_factory=list)
    """Ready pods by job, after each step"""
    writes: int = 0
    _version: Any = field(default_factory=lambda: itertools.count(10))

    # The hub -----------------------------------------------------------------------------------------------------

    def fleet(self) -> Fleet:
        return build(
            now=self.now,
            nodes=list(self.nodes.values()),
            pods=[self._raw(number, item) for number, item in enumerate(self.pods) if item.bound_at is not None],
            jobs=list(self.jobs.values()),
            releases=[release()],
            sites=[],
            assignments=list(self.assignments.values()),
            live={name: Live(cpu=Sample(self.used.get(name, 0.2), self.now - 5)) for name in self.nodes},
        )

    def hub(self, *, only_first: bool = False, statuses: bool = True) -> Plan:
        """One pass; `only_first`: the leader dies after its first write, `statuses`: False, before it wrote any."""
        fleet = self.fleet()
        whole = plan(fleet, self.settings)
        known = {f"shop/{name}": parse(InferenceJob, raw) for name, raw in self.jobs.items()}
        present = [parse(Assignment, item) for item in self.assignments.values()]
        said = publish(fleet, whole, step(fleet), jobs=known, present=present, namespace="edgeward")
        for write in said.writes[: 1 if only_first else None]:
            before = self.assignments.get(write.name)
            meta = {**write.body["metadata"], "uid": write.name, "creationTimestamp": format_time(self.now)}
            if before is not None:
                meta["creationTimestamp"] = before["metadata"]["creationTimestamp"]
            meta["resourceVersion"] = str(next(self._version))
            kind = {"apiVersion": "edgeward.dev/v1alpha1", "kind": "Assignment", "metadata": meta}
            self.assignments[write.name] = {
                **kind,
                "spec": write.body["spec"],
                "status": (before or {}).get("status", {}),
            }
            self.writes += 1
        if only_first:
            return whole
        for name in said.empty:
            del self.assignments[name]
        if statuses:
            self._report(fleet, whole, known)
        return whole

    def _report(self, fleet: Fleet, whole: Plan, known: dict[str, InferenceJob]) -> None:
        mine = [parse(Assignment, item) for item in self.assignments.values()]
        for facts in fleet.jobs:
            one = whole.job(facts.key)
            assert one is not None
            told = [item for item in mine if f"{item.spec.job.namespace}/{item.spec.job.name}" == facts.key]
            read = known[facts.key]
            status = job_status(read, facts, one, whole=whole, fleet=fleet, assignments=told)
            if to_dict(status) != to_dict(read.status):
                self.events += [(facts.name, str(r), text) for r, text, _ in job_events(read.status, status, one)]
                self.jobs[facts.name]["status"] = to_dict(status)
                self.writes += 1

    # The cluster -------------------------------------------------------------------------------------------------

    def cluster(self) -> None:
        """The agent, the scheduler and the kubelets catch up with the Assignments."""
        self.pods = [item for item in self.pods if item.gone_at is None or item.gone_at > self.now]
        wanted: Counter[tuple[str, str]] = Counter()
        for name, item in self.assignments.items():
            for held in item["spec"].get("nodes") or []:
                wanted[name, held["name"]] = held["replicas"] + held.get("leaving", 0)
        alive: dict[tuple[str, str], list[Pod]] = {}
        for item in self.pods:
            if item.gone_at is None:
                alive.setdefault((item.assignment, item.node), []).append(item)
        for at in wanted.keys() | alive.keys():
            mine = alive.get(at, [])
            for surplus in mine[wanted[at] :]:
                surplus.gone_at = self.now + (0 if surplus.bound_at is None else self.grace)
            for _ in range(wanted[at] - len(mine)):
                spec = self.assignments[at[0]]["spec"]
                cpu = parse_cpu(spec["effective"]["resources"]["requests"]["cpu"])
                self.pods.append(Pod(*at, cpu=cpu))
        for item in self.pods:
            if item.bound_at is None and item.gone_at is None and self._takes(item):
                item.bound_at = self.now
        for name, raw in self.assignments.items():
            raw["status"] = self._status(name, raw)

    def _takes(self, pod: Pod) -> bool:
        raw = self.nodes[pod.node]
        if raw["spec"].get("unschedulable"):
            return False
        used = sum(item.cpu for item in self.pods if item.node == pod.node and item.bound_at is not None)
        return used + pod.cpu <= parse_cpu(raw["status"]["allocatable"]["cpu"])

    def _status(self, name: str, raw: Raw) -> Raw:
        reports = []
        for held in raw["spec"].get("nodes") or []:
            mine = [p for p in self.pods if (p.assignment, p.node) == (name, held["name"]) and p.gone_at is None]
            ready = sum(self._ready(item) for item in mine)
            reports.append({"name": held["name"], "replicas": len(mine), "ready": ready})
        models = [{"name": "m", "version": "1.0", "digest": DIGEST, "serving": True, "replicas": 1}]
        total = sum(report["ready"] for report in reports)
        there = sum(item.assignment == name for item in self.pods)
        return {"nodes": reports, "replicas": there, "readyReplicas": total, "models": models if total else []}

    def _ready(self, pod: Pod) -> bool:
        return pod.bound_at is not None and pod.gone_at is None and self.now >= pod.bound_at + self.takes

    def _raw(self, number: int, pod: Pod) -> Raw:
        assert pod.bound_at is not None
        return {
            "metadata": {
                "name": f"p{number}",
                "namespace": "shop",
                "uid": f"p{number}",
                "creationTimestamp": format_time(pod.bound_at),
                "labels": {"edgeward.dev/assignment": pod.assignment},
            },
            "spec": {
                "nodeName": pod.node,
                "containers": [{"name": "runtime", "resources": {"requests": {"cpu": f"{pod.cpu}m"}}}],
            },
            "status": {"phase": "Running", "startTime": format_time(pod.bound_at)},
        }

    # Time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, *, every: float = 5.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += every
            self.cluster()
            self.hub()
            self.cluster()
            self.served.append(self.serving())

    def serving(self) -> Counter[str]:
        names = {name: raw["spec"]["job"]["name"] for name, raw in self.assignments.items()}
        return Counter(names.get(item.assignment, "?") for item in self.pods if self._ready(item))

    def where(self, job: str) -> dict[str, int]:
        """Ready pods of a job by node."""
        names = {name for name, raw in self.assignments.items() if raw["spec"]["job"]["name"] == job}
        return dict(Counter(item.node for item in self.pods if item.assignment in names and self._ready(item)))

    def condition(self, job: str, kind: str = "Ready") -> Raw:
        found: Raw = next(c for c in self.jobs[job]["status"]["conditions"] if c["type"] == kind)
        return found

    def told(self, job: str, reason: str) -> list[str]:
        return [text for name, why, text in self.events if (name, why) == (job, reason)]

    def new_leader(self) -> None:
        """Nothing is kept in a process; what the API does not say, a new leader does not know."""
        self.settings = replace(self.settings)
