"""Assignments whose job is gone: when they may be deleted. A missing job is not yet a deleted one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeward.cluster.resources import Object, key_of

CONFIRM = "edgeward.dev/confirm-deletion-of-all"
"""annotation on the hub's Lease: yes, every job was meant to go"""
HELD = "edgeward.dev/held-jobs"
"""annotation on the hub's Lease: namespace/name of each held job, with commas between, so that a new leader knows too"""
EVERY = "*"
"""in place of the names when they are too long to list: whatever job is missing is held"""
LONGEST_HELD = 64 * 1024
"""characters of HELD; the API takes 256 KiB for all annotations of an object"""


@dataclass(frozen=True, slots=True)
class Verdict:
    delete: tuple[str, ...] = ()
    """names of Assignments to delete"""
    held: tuple[str, ...] = ()
    """names that wait because their jobs look lost, not deleted"""
    jobs: frozenset[str] = frozenset()
    """jobs to hold until each is back or the word is given"""


@dataclass(slots=True)
class Orphans:
    """Remembers since when a job has been missing, so that delete-and-create of a job restarts nothing.

    Losing this memory costs only that short wait once more, so it need not be kept in the API. What is held is.
    """

    grace: float = 2.0
    """seconds that a job must be missing"""
    since: dict[str, float] = field(default_factory=dict)
    """by job; those within the grace too"""
    born: dict[str, str] = field(default_factory=dict)
    """when a job that is there, or is missing and was seen before, was made; RFC 3339 as the API gives it"""

    def missing(self, assignments: Iterable[Object], jobs: Iterable[Object], *, now: float) -> tuple[Object, ...]:
        """Assignments whose job has been missing from the cache for longer than the grace."""
        there = {key_of(item): str(item["metadata"].get("creationTimestamp", "")) for item in jobs}
        orphaned = [
            item for item in assignments if job_of(item) not in there and "deletionTimestamp" not in item["metadata"]
        ]
        names = {job_of(item) for item in orphaned}
        self.born = there | {name: made for name, made in self.born.items() if name in names}
        for name in [name for name in self.since if name not in names]:
            del self.since[name]
        for name in names:
            self.since.setdefault(name, now)
        return tuple(item for item in orphaned if now - self.since[job_of(item)] >= self.grace)

    def still(self, held: frozenset[str]) -> frozenset[str]:
        """What of the held is missing still."""
        if EVERY in held:
            return held if self.since else frozenset()
        return held & self.since.keys()


def decide(
    missing: Iterable[Object],
    listed: set[str],
    *,
    definition: Mapping[str, object] | None,
    confirmed: bool,
    held: frozenset[str] = frozenset(),
    away: Iterable[str] = (),
    born: Mapping[str, str] | None = None,
) -> Verdict:
    """Which of the missing ones may go.

    listed: jobs in a fresh consistent LIST. definition: the InferenceJob CRD; while it is absent, not Established or on
    its way out, nothing is deleted. held: what Verdict.jobs said before and is not back. away: jobs that are missing,
    however short. born: when a job that went was made, as far as it was seen.

    Two or more jobs gone with none left looks like an accident (a lost CRD, an empty restore), and so does a single one
    that was there before its definition was. They wait for the annotation or until they are back, each of them: that
    some of them are back, as while a backup is read in, says nothing about the others.
    """
    gone = [item for item in missing if job_of(item) not in listed]
    if definition is None or not gone or not _established(definition):
        return Verdict()
    if confirmed:
        return Verdict(delete=_names(gone))
    lost = ({job_of(item) for item in gone} | set(away)) - listed
    if not listed and len(lost) > 1:
        return Verdict(held=_names(gone), jobs=frozenset(lost))
    kept = [
        item
        for item in gone
        if EVERY in held or job_of(item) in held or _outlived(item, definition, (born or {}).get(job_of(item), ""))
    ]
    jobs = frozenset(job_of(item) for item in kept)
    return Verdict(delete=_names(item for item in gone if job_of(item) not in jobs), held=_names(kept), jobs=jobs)


def read_held(annotations: Mapping[str, str | None]) -> frozenset[str]:
    return frozenset(name for name in (annotations.get(HELD) or "").split(",") if name)


def held_text(jobs: frozenset[str]) -> str | None:
    """The value of HELD; None for none."""
    text = EVERY if EVERY in jobs else ",".join(sorted(jobs))
    return (text if len(text) <= LONGEST_HELD else EVERY) or None


def job_of(assignment: Object) -> str:
    job = assignment["spec"]["job"]
    return f"{job['namespace']}/{job['name']}"


def _names(assignments: Iterable[Object]) -> tuple[str, ...]:
    return tuple(str(item["metadata"]["name"]) for item in assignments)


def _outlived(assignment: Object, definition: Mapping[str, object], born: str) -> bool:
    """Whether the definition was made anew since there was this job; then the job was lost with the one before.

    Known by the job's own age where it was seen, else by the Assignment's. Times of the API sort as text.
    """
    made = str(definition["metadata"].get("creationTimestamp", ""))  # type: ignore[attr-defined]
    return bool(made) and (born or str(assignment["metadata"].get("creationTimestamp", made))) < made


def _established(definition: Mapping[str, object]) -> bool:
    if "deletionTimestamp" in definition["metadata"]:  # type: ignore[operator]
        return False
    status: Mapping[str, list[Mapping[str, str]]] = definition.get("status") or {}  # type: ignore[assignment]
    states = {item["type"]: item["status"] for item in status.get("conditions") or []}
    return states.get("Established") == "True" and states.get("Terminating") != "True"
