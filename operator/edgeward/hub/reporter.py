"""What the hub tells: statuses and Events, behind the plans.

A pass waits only for the statuses that the next plan reads to decide (who is promised room, the count of moves, what is
left out): killed right after it, the next leader must know. All others wait in a row, each object once and with its newest
status only, and are written one after the other. So a burst costs about one write an object, and while the API server is
busy with pods, statuses take one slot of it. Until such a status is written, plans see the object as if it were.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from edgeward import __version__
from edgeward.api.assignment import Assignment
from edgeward.api.common import KubeObject, Model, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelReleaseStatus
from edgeward.cluster.cache import Cache
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import INFERENCE_JOBS, MODEL_RELEASES, SITES, Object, Resource, key_of
from edgeward.fleet.model import Job, Release
from edgeward.placement.model import JobPlan
from edgeward.rollout import podmemory

from .narrate import tell_jobs, tell_releases
from .observe import Facts, Observed
from .pace import Breath
from .release_status import release_status
from .site_status import site_status
from .status import job_status
from .verdict import unreadable_status
from .writer import Writer

log = logging.getLogger(__name__)
REMEMBERED = (
    "moves",
    "proposed_move",
    "nomination",
    "exclusions",
    "scaling",
    "learned",
    "current_digest",
    "target_digest",
    "pod_rollout",
)
"""fields of a status that the next plan decides by"""
REST = 2.0
"""of the time that a status took to write, how long to leave the API server to others before the next"""


@dataclass(slots=True)
class _Due:
    """A status that is decided and not written yet."""

    base: str
    """resource version of the object that it was decided on"""
    status: dict[str, Any]
    told: Object
    """the object as it will be"""


class Reporter:
    def __init__(self, *, writer: Writer, cache: Cache, recorder: Recorder) -> None:
        self._writer = writer
        self._cache = cache
        self._recorder = recorder
        self._said: dict[str, tuple[object, ...]] = {}
        """by job, the facts that its status is known to tell"""
        self._due: dict[tuple[Resource, str], _Due] = {}
        self._row: dict[tuple[Resource, str], None] = {}
        """what of it waits for its turn"""
        self._decided = 0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._locks: WeakValueDictionary[tuple[Resource, str], asyncio.Lock] = WeakValueDictionary()
        """by object"""
        self._turned: set[str] = set()
        """jobs whose status of this pass is decided already"""
        self._telling: set[asyncio.Task[None]] = set()
        """Events on their way"""
        self.failed = 0

    async def run(self) -> None:
        """Until cancelled, or until a write is refused because this process leads no more."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._work_off(REST)
        finally:
            for task in self._telling:
                task.cancel()

    async def finish(self) -> None:
        """All that is due is written and told."""
        await self._work_off()
        await asyncio.gather(*self._telling)

    def seen(self, resource: Resource) -> list[Object]:
        """The objects as they are, or will be once what is due is written."""
        if not self._due:
            return self._cache[resource].all()
        return [self._as_told(resource, raw) for raw in self._cache[resource].all()]

    def _as_told(self, resource: Resource, raw: Object) -> Object:
        due = self._due.get((resource, key_of(raw)))
        # Edited meanwhile: the status will be decided anew.
        return due.told if due is not None and due.base == raw["metadata"]["resourceVersion"] else raw

    # Before anybody is told ----------------------------------------------------------------------------------------

    async def remember(self, observed: Observed, facts: Facts) -> frozenset[tuple[Resource, str]]:
        """The statuses of the releases, and of the jobs whose pods go out. What a rollout decided is written before a site
        is told of it: whoever leads next must not try again what was just taken back. Returns the keys of those of which
        it could not be written, as they are in held_back."""
        turned = []
        for release in observed.fleet.releases:
            try:
                if self._release(release, observed, facts):
                    turned.append(release.key)
            except Exception:  # what is odd about one release must not keep the others back
                self.failed += 1
                log.exception("the status of release %s could not be made", release.key)
        what = [(MODEL_RELEASES, key) for key in turned]
        what += [(INFERENCE_JOBS, key) for key in self._turned_jobs(observed, facts)]
        written = await asyncio.gather(*(self._write(*one) for one in what))
        return frozenset(one for one, done in zip(what, written, strict=True) if not done)

    def _turned_jobs(self, observed: Observed, facts: Facts) -> list[str]:
        """Jobs whose status is decided and tells of another turn of a change of their pods."""
        self._turned.clear()
        for key, step in observed.pods.items():
            readable = facts.jobs.get(key)
            if readable is not None and podmemory.turned(readable.status.pod_rollout or {}, step.remembered):
                self._turned.add(key)
        if not self._turned:
            return []
        by_job = _by_job(facts)
        for job in observed.fleet.jobs:
            if job.key in self._turned:
                self._tried(job, observed, facts, by_job.get(job.key, []))
        return sorted(self._turned)

    def _release(self, release: Release, observed: Observed, facts: Facts) -> bool:
        """Decide the status of a release. True when it must not wait."""
        raw, readable = self._cache[MODEL_RELEASES].get(release.key), facts.releases.get(release.key)
        step, now = observed.rollout.release(release.key), observed.fleet.now
        if raw is None or step is None:
            return False
        if readable is None:
            told = self._as_told(MODEL_RELEASES, raw)
            self._decide(MODEL_RELEASES, raw, unreadable_status(told.get("status") or {}, release, now=now))
            return False
        problem = f"{release.problem.reason} {release.problem.message}" if release.problem else ""
        said = release_status(readable, problem, step, now=now)
        if not self._decide(MODEL_RELEASES, raw, to_dict(said), known=readable):
            return False
        self._tell(tell_releases(self._recorder, raw, readable.status, said))
        return _remembers(readable.status, said) or _turned(readable.status, said)

    # After a pass ------------------------------------------------------------------------------------------------

    async def report(self, observed: Observed, facts: Facts) -> None:
        fleet, plan = observed.fleet, observed.plan
        breath = Breath()
        first: list[tuple[Resource, str]] = []
        by_job = _by_job(facts)
        for job in fleet.jobs:
            await breath.take()
            if job.key not in self._turned and self._tried(job, observed, facts, by_job.get(job.key, [])):
                first.append((INFERENCE_JOBS, job.key))
        for name, site in facts.sites.items():
            await breath.take()
            raw = self._cache[SITES].get(name)
            if raw is not None:
                overlaps = facts.overlaps.get(name, ())
                about = site_status(site, plan=plan, fleet=fleet, overlaps=overlaps, version=__version__)
                self._decide(SITES, raw, to_dict(about), known=site)
        await asyncio.gather(*(self._write(*what) for what in first))
        if self._row:
            self._wake.set()

    def _tried(self, job: Job, observed: Observed, facts: Facts, mine: list[Assignment]) -> bool:
        raw, job_plan = self._cache[INFERENCE_JOBS].get(job.key), observed.plan.job(job.key)
        if raw is None or job_plan is None:
            return False
        try:
            return self._job(observed, raw, job, facts.jobs.get(job.key), job_plan, mine)
        except Exception:  # what is odd about one job must not keep the others' statuses back
            self.failed += 1
            log.exception("the status of job %s could not be made", job.key)
            return False

    def _job(
        self,
        observed: Observed,
        raw: Object,
        facts: Job,
        job: InferenceJob | None,
        job_plan: JobPlan,
        assignments: list[Assignment],
    ) -> bool:
        """Decide the status of a job. True when it must not wait."""
        if job is None:
            told = self._as_told(INFERENCE_JOBS, raw)
            wanted = unreadable_status(told.get("status") or {}, facts, now=observed.fleet.now)
            self._decide(INFERENCE_JOBS, raw, wanted)
            return False
        facts_now = _facts(observed, raw, facts, job_plan, assignments)
        if self._said.get(facts.key) == facts_now:
            return False
        status = job_status(
            job,
            facts,
            job_plan,
            whole=observed.plan,
            fleet=observed.fleet,
            assignments=assignments,
            pods=observed.pods.get(facts.key),
        )
        if not self._decide(INFERENCE_JOBS, raw, to_dict(status), known=job):
            self._said[facts.key] = facts_now
            return False
        self._said.pop(facts.key, None)
        self._tell(tell_jobs(self._recorder, raw, job.status, status, job_plan))
        return bool(job_plan.gives_way) or _remembers(job.status, status)

    def _decide(self, resource: Resource, raw: Object, wanted: dict[str, Any], known: KubeObject | None = None) -> bool:
        """False when the object tells this already, or will. known: the object as the pass has read it."""
        status: Model | None = getattr(known, "status", None)
        present = to_dict(status) if status is not None else self._as_told(resource, raw).get("status") or {}
        if "status" in raw and _bare(present) == _bare(wanted):
            return False
        what, version = (resource, key_of(raw)), raw["metadata"]["resourceVersion"]
        self._decided += 1
        # A version of its own, for whoever remembers what he made of a version.
        meta = {**raw["metadata"], "resourceVersion": f"{version}+{self._decided}"}
        self._due[what] = _Due(version, wanted, {**raw, "metadata": meta, "status": wanted})
        self._row.setdefault(what)
        return True

    def _tell(self, events: Coroutine[Any, Any, None]) -> None:
        """Beside the passes: the next plan must not wait until the news of the last one is out."""
        task = asyncio.get_running_loop().create_task(events)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    # Writing -----------------------------------------------------------------------------------------------------

    async def _work_off(self, rest: float = 0.0) -> None:
        async with self._turn:
            while self._row:
                begun = time.monotonic()
                await self._write(*next(iter(self._row)))
                if rest:
                    await asyncio.sleep(rest * (time.monotonic() - begun))

    async def _write(self, resource: Resource, key: str) -> bool:
        """Whether it is written, by whomever."""
        what = resource, key
        self._row.pop(what, None)
        # One after the other: a second one that did not know of the first would come too late.
        async with self._locks.setdefault(what, asyncio.Lock()):
            return await self._write_due(resource, key)

    async def _write_due(self, resource: Resource, key: str) -> bool:
        what = resource, key
        due, raw = self._due.get(what), self._cache[resource].get(key)
        if due is None:
            return True
        meta = raw["metadata"] if raw is not None else {}
        if meta.get("resourceVersion") != due.base:
            # Edited meanwhile, or gone; whoever did that has marked another pass.
            del self._due[what]
            return False
        body: Object = {"metadata": {"name": meta["name"], "resourceVersion": due.base}, "status": due.status}
        if "namespace" in meta:
            body["metadata"]["namespace"] = meta["namespace"]
        try:
            written = await self._writer.apply(resource, body, subresource="status")
        finally:
            newer = self._due.get(what)
            if newer is due:
                del self._due[what]
        after = self._cache[resource].get(key)
        if written and newer is not None and newer is not due and after is not None and newer.base == due.base:
            newer.base = after["metadata"]["resourceVersion"]
        return written


def _by_job(facts: Facts) -> dict[str, list[Assignment]]:
    found: dict[str, list[Assignment]] = {}
    for item in facts.assignments:
        found.setdefault(f"{item.spec.job.namespace}/{item.spec.job.name}", []).append(item)
    return found


def _remembers(before: Model, after: Model) -> bool:
    """Whether a status has something new that the next plan decides by."""
    return any(getattr(before, name, None) != getattr(after, name, None) for name in REMEMBERED)


def _turned(before: ModelReleaseStatus, after: ModelReleaseStatus) -> bool:
    """Whether a rollout took a step that the next one builds on. What it waits for is only told."""
    ways = [said.model_copy(update={"waits_for": ""}) if said else None for said in (before.rollout, after.rollout)]
    return (
        ways[0] != ways[1]
        or before.refused != after.refused
        or before.tracked != after.tracked
        or [one.digest for one in before.history] != [one.digest for one in after.history]
    )


def _facts(
    observed: Observed, raw: Object, facts: Job, job_plan: JobPlan, assignments: list[Assignment]
) -> tuple[object, ...]:
    """All that a job's status is made of, in a form that is cheap to compare: the same facts give the same status."""
    fleet, plan = observed.fleet, observed.plan
    return (
        raw["metadata"]["resourceVersion"],
        tuple((item.name, item.metadata.resource_version) for item in assignments),
        job_plan.decision,
        job_plan.message,
        job_plan.explanation.share_of_bound,
        facts.problem,
        observed.pods.get(facts.key),
        (fleet.metrics_problem, plan.total_nodes, plan.fresh_nodes, plan.doubted_nodes, plan.doubts),
        tuple(site.name for site in fleet.sites if not site.connected),
        tuple(release.key for release in fleet.releases),
    )


def _bare(status: Any) -> Any:
    """A status without what is empty or a schema default, so that the API's form and ours compare."""
    if isinstance(status, dict):
        bare = {key: _bare(value) for key, value in status.items()}
        return {key: value for key, value in bare.items() if value not in (None, "", 0, [], {}, False)}
    if isinstance(status, list):
        return [_bare(item) for item in status]
    return status
