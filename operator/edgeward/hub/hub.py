"""The planner loop: observe, plan, publish, report, over and over, from the cache as it is now.

Every pass may be the last: killed between any two writes and started again, it writes what is still to be written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgeward import __version__
from edgeward.api.assignment import Assignment
from edgeward.api.common import KubeObject, Model, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError, Client, WriteRefused
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    INFERENCE_JOBS,
    MODEL_RELEASES,
    NAMESPACES,
    NODES,
    PODS,
    SITES,
    Object,
    Resource,
)
from edgeward.fleet.model import Job, Live
from edgeward.fleet.reading import Reader
from edgeward.fleet.settings import BuildSettings
from edgeward.fleet.traffic import Measured
from edgeward.placement.model import JobPlan
from edgeward.placement.settings import PlanSettings

from .aside import aside
from .narrate import tell_jobs, tell_releases
from .observe import Facts, Observed, Seen, decide, observe
from .pace import Breath, Pace
from .planner import Planner, PlannerSettings
from .publish import Published
from .refused import Refused
from .status import job_status, release_status, site_status, unreadable_status
from .sweep import Sweep

log = logging.getLogger(__name__)
T = TypeVar("T")
MANAGER = "edgeward-hub"
FIRST_CONFLICT, FIRST_REFUSAL = 0.2, 1.0
"""seconds until the next try of a write that came too late, and of one that the API server will not have"""
WATCHED = (INFERENCE_JOBS, MODEL_RELEASES, SITES, ASSIGNMENTS, NODES, PODS, NAMESPACES)
"""what the cache of a hub must hold"""
ASIDE_PAIRS, ASIDE_SECONDS = 2000, 0.05
"""A pass over so many pairs of a job and a node, or after one that took so long, is computed in a thread beside the event
loop: the loop must not stand still for 100 ms. Below, a thread would only make a plan later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    namespace: str = "edgeward"
    """where the operator and the Assignments of its own cluster are"""
    lease_name: str = "edgeward-hub"
    tick: float = 5.0
    """seconds after which a plan is made even if nothing was heard: ages and back-offs go on without events"""
    coalesce: float = 1.0
    """the longest that a burst of events waits for one plan, seconds; an idle planner acts at once"""
    writes_at_once: int = 16
    build: BuildSettings = field(default_factory=BuildSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    planner: PlannerSettings = field(default_factory=PlannerSettings)


class Hub:
    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        settings: HubSettings,
        recorder: Recorder,
        live: Callable[[], tuple[Mapping[str, Live], str]],
        measured: Callable[[], Iterable[Measured]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings
        self._recorder = recorder
        self._live = live
        self._measured = measured
        self._clock = clock
        self._dirty = asyncio.Event()
        self._sweep = Sweep(
            client=client,
            cache=cache,
            recorder=recorder,
            namespace=settings.namespace,
            lease_name=settings.lease_name,
            manager=MANAGER,
            delete=self._delete_assignment,
            mark=self.mark,
        )
        self._slots = asyncio.Semaphore(settings.writes_at_once)
        self._reader = Reader()
        self._refused = Refused()
        self.planner = Planner(settings.planner, solved=self.mark)
        self._said: dict[str, tuple[object, ...]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        """Events on their way"""
        self.last: Observed | None = None
        self.passes = 0
        self.failed = 0

    def mark(self) -> None:
        """Something changed; a plan is due."""
        self._dirty.set()

    async def run(self) -> None:
        """Until cancelled. The cache must have been seeded."""
        try:
            await self._run()
        finally:
            for task in self._telling:
                task.cancel()
            await self.planner.close()

    async def _run(self) -> None:
        self._dirty.set()
        pace = Pace(self._settings.coalesce)
        while True:
            try:
                await asyncio.wait_for(self._dirty.wait(), timeout=self._settings.tick)
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(pace.wait(time.monotonic()))
            self._dirty.clear()
            try:
                observed = await self._pass()
                pace.planned(observed.seconds, now=time.monotonic())
            except WriteRefused:
                raise
            except Exception:  # one bad pass must not end the loop; the next one starts from the cache again
                self.failed += 1
                log.exception("a planner pass failed")
                await asyncio.sleep(1.0)
                self._dirty.set()

    async def once(self) -> Observed:
        """One pass of the loop, and all the Events that it tells."""
        observed = await self._pass()
        await asyncio.gather(*self._telling)
        return observed

    async def _pass(self) -> Observed:
        facts, observed, published = await self._think()
        await self._publish(published)
        await self._report(observed, facts)
        await self._sweep.once()
        self.last = observed
        self.passes += 1
        return observed

    # Observe and plan --------------------------------------------------------------------------------------------

    def _look(self) -> Seen:
        live, problem = self._live()
        return Seen(
            now=self._clock(),
            nodes=self._cache[NODES].all(),
            pods=self._cache[PODS].all(),
            jobs=self._cache[INFERENCE_JOBS].all(),
            releases=self._cache[MODEL_RELEASES].all(),
            sites=self._cache[SITES].all(),
            namespaces=self._cache[NAMESPACES].all(),
            assignments=self._cache[ASSIGNMENTS].all(),
            live=dict(live),
            metrics_problem=problem,
            measured=tuple(self._measured()),
        )

    async def _think(self) -> tuple[Facts, Observed, Published]:
        settings = self._settings
        facts = await self._observe()
        if await self.planner.advise(facts.fleet, facts.wants, settings.plan):
            # It was waited for: what there is now decides, the advice only counts as far as it still fits.
            facts = await self._observe()
        guidance = self.planner.advice(facts.fleet.now, settings.plan)

        def think() -> tuple[Observed, Published]:
            return decide(facts, guidance=guidance, settings=settings.plan, namespace=settings.namespace)

        return facts, *await self._compute(think, len(facts.fleet.jobs) * len(facts.fleet.nodes))

    async def _observe(self) -> Facts:
        seen, settings = self._look(), self._settings.build
        return await self._compute(
            lambda: observe(seen, settings=settings, reader=self._reader), len(seen.jobs) * len(seen.nodes)
        )

    async def _compute(self, work: Callable[[], T], pairs: int) -> T:
        took = self.last.seconds if self.last else 0.0
        return work() if pairs < ASIDE_PAIRS and took < ASIDE_SECONDS else await aside(work)

    # Publish -----------------------------------------------------------------------------------------------------

    async def _publish(self, published: Published) -> None:
        for job, why in published.failed:
            self.failed += 1
            log.error("the plan of job %s does not fit an Assignment: %s", job, why)
        await self._all(self._apply(ASSIGNMENTS, write.body, about=write.name) for write in published.writes)
        await self._all(self._delete_assignment(name) for name in published.empty)

    async def _delete_assignment(self, name: str) -> None:
        raw = self._cache[ASSIGNMENTS].get(f"{self._settings.namespace}/{name}")
        if raw is not None and "deletionTimestamp" not in raw["metadata"]:
            try:
                await self._client.delete(ASSIGNMENTS, self._settings.namespace, name, uid=raw["metadata"]["uid"])
            except ApiError as error:
                # The tick of the loop tries it again; nobody else's work waits for it.
                self.failed += 1
                log.warning("Assignment %s could not be deleted: %s", name, error)

    # Report ------------------------------------------------------------------------------------------------------

    async def _report(self, observed: Observed, facts: Facts) -> None:
        fleet, plan, rollout = observed.fleet, observed.plan, observed.rollout
        by_job: dict[str, list[Assignment]] = {}
        for item in facts.assignments:
            by_job.setdefault(f"{item.spec.job.namespace}/{item.spec.job.name}", []).append(item)
        writes: list[Awaitable[None]] = []
        breath = Breath()
        for job in fleet.jobs:
            await breath.take()
            raw, job_plan = self._cache[INFERENCE_JOBS].get(job.key), plan.job(job.key)
            if raw is None or job_plan is None:
                continue
            try:
                readable_job = facts.jobs.get(job.key)
                writes += self._job_writes(observed, raw, job, readable_job, job_plan, by_job.get(job.key, []))
            except Exception:  # what is odd about one job must not keep the others' statuses back
                self.failed += 1
                log.exception("the status of job %s could not be made", job.key)
        for release in fleet.releases:
            raw, readable, step = (
                self._cache[MODEL_RELEASES].get(release.key),
                facts.releases.get(release.key),
                rollout.release(release.key),
            )
            if raw is None or step is None:
                continue
            if readable is None:
                wanted = unreadable_status(raw.get("status") or {}, release, now=fleet.now)
                writes += self._status(MODEL_RELEASES, raw, wanted)
                continue
            problem = f"{release.problem.reason} {release.problem.message}" if release.problem else ""
            said = release_status(readable, problem, step, now=fleet.now)
            changed = self._status(MODEL_RELEASES, raw, to_dict(said), known=readable)
            if changed:
                self._tell(tell_releases(self._recorder, raw, readable.status, said))
            writes += changed
        for name, site in facts.sites.items():
            await breath.take()
            raw = self._cache[SITES].get(name)
            if raw is not None:
                overlaps = facts.overlaps.get(name, ())
                about = site_status(site, plan=plan, fleet=fleet, overlaps=overlaps, version=__version__)
                writes += self._status(SITES, raw, to_dict(about), known=site)
        await self._all(writes)

    def _job_writes(
        self,
        observed: Observed,
        raw: Object,
        facts: Job,
        job: InferenceJob | None,
        job_plan: JobPlan,
        assignments: list[Assignment],
    ) -> list[Awaitable[None]]:
        """The write of a job's status and the Events that go with it; none when the status is so already."""
        if job is None:
            wanted = unreadable_status(raw.get("status") or {}, facts, now=observed.fleet.now)
            return self._status(INFERENCE_JOBS, raw, wanted)
        facts_now = _facts(observed, raw, facts, job_plan, assignments)
        if self._said.get(facts.key) == facts_now:
            return []
        status = job_status(
            job,
            facts,
            job_plan,
            whole=observed.plan,
            fleet=observed.fleet,
            assignments=assignments,
        )
        changed = self._status(INFERENCE_JOBS, raw, to_dict(status), known=job)
        if changed:
            self._tell(tell_jobs(self._recorder, raw, job.status, status, job_plan))
            self._said.pop(facts.key, None)
        else:
            self._said[facts.key] = facts_now
        return changed

    def _tell(self, events: Coroutine[Any, Any, None]) -> None:
        """Beside the passes: the next plan must not wait until the news of the last one is out."""
        task = asyncio.get_running_loop().create_task(events)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _status(
        self, resource: Resource, raw: Object, wanted: dict[str, Any], known: KubeObject | None = None
    ) -> list[Awaitable[None]]:
        """The write that makes the status so, or none when it is so already."""
        status: Model | None = getattr(known, "status", None)
        present = to_dict(status) if status is not None else raw.get("status") or {}
        if "status" in raw and _bare(present) == _bare(wanted):
            return []
        meta = raw["metadata"]
        body: Object = {
            "metadata": {"name": meta["name"], "resourceVersion": meta["resourceVersion"]},
            "status": wanted,
        }
        if "namespace" in meta:
            body["metadata"]["namespace"] = meta["namespace"]
        return [self._apply(resource, body, about=str(meta["name"]), subresource="status")]

    # Writing -----------------------------------------------------------------------------------------------------

    async def _apply(self, resource: Resource, body: Object, *, about: str, subresource: str = "") -> None:
        meta = body["metadata"]
        key = (resource.plural, meta.get("namespace", ""), meta["name"], subresource)
        if self._refused.holds(key, str(meta.get("resourceVersion", "")), now=time.monotonic()):
            return
        async with self._slots:
            try:
                answer = await self._client.apply(resource, body, manager=MANAGER, subresource=subresource)
            except ApiError as error:
                # Edited meanwhile, or gone: the watch brings what is there now. Anything else is tried again later.
                known = error.conflict or error.not_found
                if not known:
                    self.failed += 1
                    log.warning("%s %s: %s", resource.kind, about, error)
                delay = self._refused.note(
                    key,
                    str(meta.get("resourceVersion", "")),
                    first=FIRST_CONFLICT if known else FIRST_REFUSAL,
                    now=time.monotonic(),
                )
                asyncio.get_running_loop().call_later(delay, self.mark)
                return
            self._refused.forget(key)
            self._cache[resource].put(answer)

    async def _all(self, writes: Any) -> None:
        await asyncio.gather(*writes)


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
        facts.problem,
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
