"""Assignments whose job is gone: when they may be deleted. A missing job is not yet a deleted one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeward.cluster.resources import Object

CONFIRM = "edgeward.dev/confirm-deletion-of-all"
"""annotation on the hub's Lease: yes, every job was meant to go"""


@dataclass(frozen=True, slots=True)
class Verdict:
    delete: tuple[str, ...] = ()
    """names of Assignments to delete"""
    held: tuple[str, ...] = ()
    """names that wait because every job is gone at once"""


@dataclass(slots=True)
class Orphans:
    """Remembers since when a job has been missing, so that delete-and-create of a job restarts nothing.

    Losing this memory costs only that short wait once more, so it need not be kept in the API.
    """

    grace: float = 2.0
    """seconds that a job must be missing"""
    since: dict[str, float] = field(default_factory=dict)

    def missing(self, assignments: Iterable[Object], jobs: set[str], *, now: float) -> tuple[Object, ...]:
        """Assignments whose job has been missing from the cache for longer than the grace."""
        orphaned = [
            item for item in assignments if job_of(item) not in jobs and "deletionTimestamp" not in item["metadata"]
        ]
        names = {job_of(item) for item in orphaned}
        for name in [name for name in self.since if name not in names]:
            del self.since[name]
        for name in names:
            self.since.setdefault(name, now)
        return tuple(item for item in orphaned if now - self.since[job_of(item)] >= self.grace)


def decide(
    missing: Iterable[Object], listed: set[str], *, definition: Mapping[str, object] | None, confirmed: bool
) -> Verdict:
    """Which of the missing ones may go.

    listed: jobs in a fresh consistent LIST. definition: the InferenceJob CRD; while it is absent, not Established or on
    its way out, nothing is deleted. Two or more jobs gone with none left looks like an accident (a lost CRD, an empty
    restore) and waits for the annotation.
    """
    gone = [item for item in missing if job_of(item) not in listed]
    if not gone or not _established(definition):
        return Verdict()
    names = tuple(str(item["metadata"]["name"]) for item in gone)
    if not listed and not confirmed and len({job_of(item) for item in gone}) > 1:
        return Verdict(held=names)
    return Verdict(delete=names)


def job_of(assignment: Object) -> str:
    job = assignment["spec"]["job"]
    return f"{job['namespace']}/{job['name']}"


def _established(definition: Mapping[str, object] | None) -> bool:
    if definition is None or "deletionTimestamp" in definition["metadata"]:  # type: ignore[operator]
        return False
    status: Mapping[str, list[Mapping[str, str]]] = definition.get("status") or {}  # type: ignore[assignment]
    states = {item["type"]: item["status"] for item in status.get("conditions") or []}
    return states.get("Established") == "True" and states.get("Terminating") != "True"
