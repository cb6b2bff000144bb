"""What `edgeward explain` knows of a job: its object, and who is served before it. From the API alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeward.api.common import Condition, to_dict
from edgeward.api.conditions import ConditionType
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.reasons import NodeRejection

Raw = Mapping[str, Any]
SHOWN_AHEAD = 8
MISSED: Mapping[str, str] = {
    **{item.value: "another spec" for item in NodeRejection},
    **{item.value: "more room" for item in NodeRejection if item.value.startswith("Insufficient")},
    NodeRejection.BACKLOG_TOO_LONG.value: "more room",
    **{item.value: "a larger limit" for item in NodeRejection if item.value.endswith("Exceeded")},
    **{item.value: "the node back" for item in NodeRejection if item.value.startswith("Node")},
    NodeRejection.NODE_SELECTOR_MISMATCH.value: "another spec",
    **{item.value: "the site back" for item in NodeRejection if item.value.startswith("Site")},
    NodeRejection.SITE_MISMATCH.value: "another spec",
    NodeRejection.SITE_QUOTA_EXCEEDED.value: "a larger limit",
    NodeRejection.EXCLUDED.value: "time",
}
"""what would answer a node's reason"""


@dataclass(frozen=True, slots=True)
class Rival:
    """A job that has its turn before the one that is explained."""

    job: str
    tier: int
    p: float
    replicas: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """One job, to be told."""

    job: InferenceJob
    ahead: tuple[Rival, ...] | None
    """in their order; None when the other jobs may not be listed"""
    now: float

    @property
    def key(self) -> str:
        return f"{self.job.namespace}/{self.job.name}"

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((item for item in self.job.status.conditions if item.type == kind), None)

    @property
    def ready(self) -> Condition | None:
        return self.condition(ConditionType.READY)

    @property
    def waits(self) -> bool:
        """Whether replicas have no place."""
        placed = self.condition(ConditionType.PLACED)
        return placed is not None and placed.status == "False"

    def document(self) -> dict[str, Any]:
        """For machines. What it is made of is the job's own status; contribution is weight times value."""
        status = to_dict(self.job.status)
        explanation = status.get("explanation")
        if explanation:
            for told in (explanation, *explanation.get("runnersUp", ())):
                for term in told.get("terms", ()):
                    term["contribution"] = round(term.get("weight", 0) * term.get("value", 0) / 1000)
        ready = self.ready
        return {
            "job": self.key,
            "generation": self.job.generation,
            "spec": to_dict(self.job.spec),
            "ready": None if ready is None else ready.status == "True",
            "reason": ready.reason if ready else "PendingEvaluation",
            "message": ready.message if ready else "",
            "waits": self.waits,
            "ahead": None
            if self.ahead is None
            else [
                {"job": item.job, "tier": item.tier, "p": item.p, "replicas": item.replicas, "ready": item.ready}
                for item in self.ahead
            ],
            **{
                key: status.get(key)
                for key in (
                    *("priority", "modelVersion", "modelDigest", "replicas", "readyReplicas", "sites", "decisions"),
                    *("decisionsOmitted", "explanation", "exclusions", "moves", "proposedMove", "nomination"),
                    *("scaling", "learned", "conditions"),
                )
            },
        }


def ahead_of(job: InferenceJob, others: Iterable[Raw]) -> tuple[Rival, ...]:
    """Who has a turn before the job, by what the statuses say: higher priority tier, then larger P. Of jobs that are
    alike in both, the one that the job's own status names before it."""
    own = job.status.priority
    if own is None:
        return ()
    told = job.status.explanation.order if job.status.explanation else ""
    found = []
    for raw in others:
        meta, status = raw["metadata"], raw.get("status") or {}
        priority = status.get("priority")
        key = f"{meta['namespace']}/{meta['name']}"
        if not priority or key == f"{job.namespace}/{job.name}" or "deletionTimestamp" in meta:
            continue
        place = (priority.get("tier", 0), priority.get("score", 0))
        if place > (own.tier, own.score) or (place == (own.tier, own.score) and told.endswith(f"after {key}")):
            ready = any(
                item.get("type") == "Ready" and item.get("status") == "True" for item in status.get("conditions") or []
            )
            found.append(Rival(key, place[0], place[1] / 1000, int(status.get("replicas") or 0), ready))
    return tuple(sorted(found, key=lambda item: (-item.tier, -item.p, item.job)))


def alike(name: str, others: Iterable[str]) -> list[str]:
    """Names that a person may have meant, best first."""
    known = sorted(set(others))
    held = [other for other in known if name in other or other in name]
    return list(dict.fromkeys([*difflib.get_close_matches(name, known, n=3, cutoff=0.6), *held]))[:3]
