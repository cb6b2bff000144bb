"""A hub and its agent without a cluster: Assignments in a dict, and pods that become ready when they like."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.api.inferencejob import InferenceJob
from edgeward.fleet.model import Fleet
from edgeward.hub.publish import Published, publish
from edgeward.placement.model import JobPlan, Placement, Plan
from edgeward.rollout.step import step
from tests.unit.fleet.objects import NOW, Raw, fleet, job, node, release

SITES = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
NODES = [node(name, edgeward_dev__site=site) for name, site in SITES.items()]


def plan_of(wanted: dict[str, int], *, key: str = "shop/signs", missing: int = 0, reason: str = "") -> Plan:
    placements = tuple(
        Placement(name, SITES.get(name, "a"), "edge", count, 0.5, NOW - 100)
        for name, count in sorted(wanted.items())
        if count
    )
    one = JobPlan(
        key=key,
        priority_tier=3,
        p=Fraction(1, 2),
        wanted=sum(wanted.values()) + missing,
        placements=placements,
        missing=missing,
        reason=reason,
    )
    return Plan(jobs=(one,), total_nodes=len(SITES), fresh_nodes=len(SITES), known_nodes=len(SITES), _by_key={key: one})


@dataclass
class World:
    """One job. `pods` holds (ready, starting) by node, as the agent's Deployments would."""

    job: Raw = field(default_factory=job)
    releases: list[Raw] = field(default_factory=lambda: [release()])
    sites: list[Raw] = field(default_factory=list)
    namespaces: list[Raw] = field(default_factory=list)
    assignments: dict[str, Raw] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    """by node, as the Assignments say"""
    writes: int = 0
    revisions: dict[str, list[int]] = field(default_factory=dict)

    def fleet(self) -> Fleet:
        return fleet(
            nodes=NODES,
            jobs=[self.job],
            releases=self.releases,
            assignments=list(self.assignments.values()),
            sites=self.sites,
            namespaces=self.namespaces,
        )

    def publish(self, plan: Plan, **changes: Any) -> Published:
        seen = self.fleet()
        known: dict[str, Any] = {"jobs": {"shop/signs": parse(InferenceJob, self.job)}}
        return publish(
            seen,
            plan,
            step(seen),
            present=[parse(Assignment, item) for item in self.assignments.values()],
            namespace="edgeward",
            **{**known, **changes},
        )

    def hub(self, plan: Plan) -> Published:
        """One pass of the hub, carried out."""
        said = self.publish(plan)
        for write in said.writes:
            self._apply(write.body)
        for name in said.empty:
            del self.assignments[name], self.revisions[name]
        self.writes += len(said.writes)
        return said

    def _apply(self, body: Raw) -> None:
        name, old = body["metadata"]["name"], self.assignments.get(body["metadata"]["name"])
        given = body["metadata"].get("resourceVersion")
        present = old["metadata"]["resourceVersion"] if old else None
        assert given == present, "a write carries what it was decided on"
        number = int(present or 0) + 1
        meta = {**body["metadata"], "uid": f"uid-{name}", "resourceVersion": str(number), "generation": number}
        full = {"apiVersion": "edgeward.dev/v1alpha1", "kind": "Assignment", **body, "metadata": meta}
        self.assignments[name] = {**full, "status": (old or {}).get("status") or {}}
        self.revisions.setdefault(name, []).append(body["spec"]["revision"])

    def agent(self, started: dict[str, int]) -> None:
        """Scale as the Assignments say; of what is starting, `started` pods by node become ready. Then report."""
        self.wanted = {}
        for item in self.assignments.values():
            for held in item["spec"].get("nodes") or []:
                self.wanted[held["name"]] = self.wanted.get(held["name"], 0) + held["replicas"] + held.get("leaving", 0)
        for name in [*self.ready, *self.wanted]:
            want = self.wanted.get(name, 0)
            self.ready[name] = min(want, self.ready.get(name, 0) + started.get(name, 0))
        for item in self.assignments.values():
            reports = [
                {
                    "name": held["name"],
                    "replicas": held["replicas"] + held.get("leaving", 0),
                    "ready": min(self.ready[held["name"]], held["replicas"] + held.get("leaving", 0)),
                }
                for held in item["spec"].get("nodes") or []
            ]
            item["status"] = {
                "nodes": reports,
                "replicas": sum(one["replicas"] for one in reports),
                "readyReplicas": sum(one["ready"] for one in reports),
                "appliedRevision": item["spec"]["revision"],
            }

    def settle(self, plan: Plan, *, passes: int = 8) -> None:
        """Until nothing more is written; every pod starts at once."""
        quiet = 0
        for _ in range(passes):
            said = self.hub(plan)
            self.agent(dict.fromkeys(SITES, 10))
            quiet = 0 if said.writes or said.empty else quiet + 1
            if quiet == 2:
                return
        raise AssertionError("it never came to rest")

    @property
    def serving(self) -> int:
        return sum(self.ready.values())

    def placed(self) -> dict[str, int]:
        return {
            held["name"]: held["replicas"]
            for item in self.assignments.values()
            for held in item["spec"].get("nodes") or []
            if held["replicas"]
        }
