"""The planner loop: observe, plan, publish, report, over and over, from the cache as it is now.

Every pass may be the last: killed between any two writes and started again, it writes what is still to be written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

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
)
from edgeward.fleet.model import Answer, Followed, Live
from edgeward.fleet.reading import Reader
from edgeward.fleet.settings import BuildSettings
from edgeward.fleet.traffic import Measured
from edgeward.placement.settings import PlanSettings
from edgeward.rollout.model import Question

from .aside import aside
from .held import held_back
from .observe import Facts, Observed, Seen, decide, observe
from .pace import Pace
from .planner import Planner, PlannerSettings
from .publish import Published
from .reporter import Reporter
from .sweep import Sweep
from .writer import MANAGER, Writer

log = logging.getLogger(__name__)
T = TypeVar("T")
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
        followed: Callable[[], Mapping[str, Followed]] = dict,
        answers: Callable[[], Mapping[str, Answer]] = dict,
        ask: Callable[[tuple[Question, ...]], None] = lambda _: None,
        heard: Callable[[], Mapping[str, bool]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings
        self._live = live
        self._measured = measured
        self._followed = followed
        self._answers = answers
        self._ask = ask
        self._heard = heard
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
        self._writer = Writer(client=client, cache=cache, at_once=settings.writes_at_once, again=self.mark)
        self._reporter = Reporter(writer=self._writer, cache=cache, recorder=recorder)
        self._reader = Reader()
        self.planner = Planner(settings.planner, solved=self.mark)
        self.last: Observed | None = None
        self.passes = 0
        self._failed = 0

    @property
    def failed(self) -> int:
        """Passes, writes and statuses that came to nothing."""
        return self._failed + self._writer.failed + self._reporter.failed

    def mark(self) -> None:
        """Something changed; a plan is due."""
        self._dirty.set()

    async def run(self) -> None:
        """Until cancelled. The cache must have been seeded."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reporter.run())
                await self._run()
        finally:
            await self.planner.close()

    async def _run(self) -> None:
        self._dirty.set()
        pace = Pace(self._settings.coalesce)
        while True:
            try:
                async with asyncio.timeout(self._settings.tick):  # wait_for may lose a cancellation
                    await self._dirty.wait()
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
                self._failed += 1
                log.exception("a planner pass failed")
                await asyncio.sleep(1.0)
                self._dirty.set()

    async def once(self) -> Observed:
        """One pass of the loop, and all that it tells."""
        observed = await self._pass()
        await self._reporter.finish()
        return observed

    async def _pass(self) -> Observed:
        facts, observed, published = await self._think()
        self._ask(tuple(one for release in observed.rollout.releases for one in release.questions))
        unsaid = await self._reporter.remember(observed, facts)
        await self._publish(held_back(published, unsaid, jobs=facts.jobs, present=facts.assignments))
        await self._reporter.report(observed, facts)
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
            jobs=self._reporter.seen(INFERENCE_JOBS),
            releases=self._reporter.seen(MODEL_RELEASES),
            sites=self._reporter.seen(SITES),
            namespaces=self._cache[NAMESPACES].all(),
            assignments=self._cache[ASSIGNMENTS].all(),
            live=dict(live),
            heard=self._heard(),
            metrics_problem=problem,
            answers=dict(self._answers()),
            measured=tuple(self._measured()),
            followed=dict(self._followed()),
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
            self._failed += 1
            log.error("the plan of job %s does not fit an Assignment: %s", job, why)
        await asyncio.gather(*(self._writer.apply(ASSIGNMENTS, write.body) for write in published.writes))
        await asyncio.gather(*(self._delete_assignment(name) for name in published.empty))

    async def _delete_assignment(self, name: str) -> None:
        raw = self._cache[ASSIGNMENTS].get(f"{self._settings.namespace}/{name}")
        if raw is not None and "deletionTimestamp" not in raw["metadata"]:
            try:
                await self._client.delete(ASSIGNMENTS, self._settings.namespace, name, uid=raw["metadata"]["uid"])
            except ApiError as error:
                # The tick of the loop tries it again; nobody else's work waits for it.
                self._failed += 1
                log.warning("Assignment %s could not be deleted: %s", name, error)
