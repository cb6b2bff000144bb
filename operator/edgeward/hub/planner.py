"""The full solve, in a process of its own that is there only while there is something to solve.

    pass of the hub -> offer(Fleet) -> worker process -> solution -> guidance for the next pass

The pass itself never waits for it. A worker that crashes, hangs or answers nonsense costs nothing but the guidance: the
pass goes on alone, and the reason is kept for /metrics and for the plan's notes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import edgeward
from edgeward.fleet.model import Fleet, Job
from edgeward.placement.model import Guidance
from edgeward.placement.settings import PlanSettings
from edgeward.placement.waiting import counts, waiting

from .aside import aside
from .worker import LENGTH, frame

log = logging.getLogger(__name__)
LARGEST = 2**30
"""bytes of an answer; a length beyond it is no length"""


KINDS = ("Crashed", "Hung", "Refused")
"""why there is no answer: the process ended or talked nonsense, gave none in time, or could not solve what it was given"""


class WorkerFailed(Exception):
    """There is no answer; `kind` is one of KINDS."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """Seconds, unless it says otherwise."""

    work: str = "edgeward.hub.solving:solve_in_time"
    """what the worker runs, MODULE:FUNCTION; with a Fleet and PlanSettings, for a Guidance; with that Guidance as well,
    for the same with its bounds"""
    least: int = 400
    """pairs of a replica that wants a place and a node; below, the quick way is as good and a process not worth it"""
    patience: float = 3.0
    """the longest that many new replicas wait for advice; then they are placed without. A better place is worth a moment
    to what stays there for days; more than that is felt by whoever waits for a burst to start"""
    quiet: float = 2.0
    """the bound of an advice is computed once nothing was to be solved for so long: a solve that comes in the middle of
    it needs another process"""
    idle: float = 30.0
    """the worker ends when it had nothing to do for so long"""
    deadline: float = 60.0
    """a worker that has no answer after so long is killed; a backstop, for the work's own limits are counts"""
    every: float = 300.0
    """what waits for a place in an unchanged fleet is solved anew after so long"""
    retry: float = 5.0
    """after a failure; twice as long after each further one"""
    longest_retry: float = 300.0


class Planner:
    """When the full solve is asked for, and what became of it. Requests are never queued: the newest Fleet wins."""

    def __init__(
        self,
        settings: PlannerSettings,
        *,
        solved: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """solved: told when there is new advice, and when its bounds are known."""
        self._settings = settings
        self._solved = solved
        self._clock = clock
        self.worker = Worker(settings.work, idle=settings.idle, deadline=settings.deadline)
        self._waiting: tuple[Fleet, PlanSettings] | None = None
        self._asked: tuple[int, float] | None = None
        """the shape that was asked about last, and when"""
        self._known: frozenset[str] = frozenset()
        """jobs that wanted a place when it was asked last"""
        self._task: asyncio.Task[None] | None = None
        self._bounding: asyncio.Task[None] | None = None
        self._in_a_row = 0
        self._not_before = float("-inf")
        self.latest: Guidance | None = None
        self.problem = ""
        """why the last solve gave nothing; empty when it did"""
        self.failures: Counter[str] = Counter()
        self.backstops = 0
        """solves that the wall clock ended before their counts did"""
        self.seconds = 0.0
        """that the last solve took, the way to the worker and back included"""
        self.solved = 0

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def advise(self, fleet: Fleet, wants: Wants, settings: PlanSettings) -> bool:
        """Have this Fleet solved if that pays. Many replicas that nobody asked about before are worth waiting for; what
        has waited for room already goes on waiting behind. True when it waited, so that the Fleet is older by then."""
        if wants.replicas * len(fleet.nodes) < self._settings.least or wants.replicas < settings.worth_solving:
            return False
        new = sum(count for key, count in wants.jobs.items() if key not in self._known)
        if not self._offer(fleet, wants, settings) or new < settings.worth_solving:
            return False
        assert self._task is not None
        await asyncio.wait({self._task}, timeout=self._settings.patience)
        return True

    def advice(self, now: float, settings: PlanSettings) -> Guidance | None:
        """For a plan at `now`. When there should be advice and is none, one that advises nothing and says why."""
        known = self.latest
        if known is not None and now - known.made_at > settings.guidance_expiry:
            known = None
        if self.problem:
            return replace(known, problem=self.problem) if known else Guidance(made_at=now, problem=self.problem)
        return known

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._leave_bound()
        await self.worker.close()

    def _offer(self, fleet: Fleet, wants: Wants, settings: PlanSettings) -> bool:
        """False when it is not to be solved: one of the same shape was, or the last failure is too near."""
        now = self._clock()
        if self._asked is not None and not self.problem:
            before, at = self._asked
            if wants.shape == before and now - at < self._settings.every:
                return False
        if now < self._not_before:
            return False
        self._asked, self._known = (wants.shape, now), frozenset(wants.jobs)
        self._waiting = (fleet, settings)
        if not self.busy:
            self._task = asyncio.get_running_loop().create_task(self._work_off())
        return True

    async def _work_off(self) -> None:
        while self._waiting is not None:
            (fleet, settings), self._waiting = self._waiting, None
            await self._leave_bound()
            begun = self._clock()
            try:
                guidance = await self.worker.ask(fleet, settings)
                if not isinstance(guidance, Guidance):
                    raise WorkerFailed("Refused", f"answered with a {type(guidance).__name__}")
            except WorkerFailed as error:
                self._failed(error)
                return
            self.seconds = self._clock() - begun
            self.solved += 1
            self.backstops += guidance.backstop
            self.latest = guidance
            if self.problem:
                log.info("the full solve works again")
            self.problem, self._in_a_row = "", 0
            self._solved()
            if self._waiting is None and guidance.tiers and guidance.share_of_bound is None:
                self._bounding = asyncio.get_running_loop().create_task(self._bound(fleet, settings, guidance))

    async def _bound(self, fleet: Fleet, settings: PlanSettings, guidance: Guidance) -> None:
        """How near the advice comes to the best; nobody waits for it, and whatever is to be solved comes first."""
        await asyncio.sleep(self._settings.quiet)
        try:
            known = await self.worker.ask(fleet, settings, guidance)
        except WorkerFailed as error:
            log.info("no bound for the last solve: the solver process %s", error)
            return
        if isinstance(known, Guidance) and self.latest is guidance:
            self.latest = known
            self._solved()

    async def _leave_bound(self) -> None:
        bounding, self._bounding = self._bounding, None
        if bounding is not None:
            bounding.cancel()
            await asyncio.gather(bounding, return_exceptions=True)

    def _failed(self, error: WorkerFailed) -> None:
        """The quick path goes on alone; what was solved before is as good as it was."""
        settings = self._settings
        delay = min(settings.retry * 2 ** min(self._in_a_row, 16), settings.longest_retry)
        self._in_a_row += 1
        self._not_before = self._clock() + delay
        self._waiting = None
        self.failures[error.kind] += 1
        # No figure that differs from one failure to the next: the words are shown in a plan's notes.
        self.problem = f"the solver process {error}; replicas are placed without its advice"
        log.warning("the solver process %s; tried again in %g s", error, delay)


@dataclass(frozen=True, slots=True)
class Wants:
    """The replicas of a Fleet that want a place, by job, and a hash of all that decides about them but live figures."""

    jobs: Mapping[str, int]
    shape: int

    @property
    def replicas(self) -> int:
        return sum(self.jobs.values())


def wants(fleet: Fleet) -> Wants:
    """What is asked for and not assigned: a look at sums, cheap enough for every pass."""
    jobs = waiting(fleet)
    if not jobs:
        return Wants(jobs, 0)
    shape = hash(
        (
            tuple((job.key, job.generation, jobs.get(job.key), _places(job, fleet.now)) for job in fleet.jobs),
            tuple((n.name, n.site, n.ready, n.unschedulable, n.allocatable, n.foreign, n.taints) for n in fleet.nodes),
            tuple((site.name, site.connected, site.unschedulable, site.frozen) for site in fleet.sites),
        )
    )
    return Wants(jobs, shape)


def _places(job: Job, now: float) -> tuple[tuple[str, int], ...]:
    """What the job holds, without what is lost and due to be replaced."""
    return tuple(
        (placed.node, placed.replicas) for placed in job.placed if placed.replicas > 0 and counts(job, placed, now)
    )


class Worker:
    """One child process, started when asked and ended `idle` seconds after its last answer. One question at a time."""

    def __init__(self, work: str, *, idle: float, deadline: float) -> None:
        self._work = work
        self._idle = idle
        self._deadline = deadline
        self._process: asyncio.subprocess.Process | None = None
        self._retire: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.starts = 0
        self.peak_bytes = 0

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def ask(self, *arguments: Any) -> Any:
        """What the work returns. Raises WorkerFailed; then the process is gone, and the next question starts another."""
        if self._retire is not None:
            self._retire.cancel()
        request = await aside(lambda: frame(pickle.dumps(arguments, protocol=pickle.HIGHEST_PROTOCOL)))
        try:
            async with asyncio.timeout(self._deadline):
                content = await self._exchange(request)
        except TimeoutError:
            await self._kill()
            raise WorkerFailed("Hung", f"gave no answer within {self._deadline:g} s") from None
        except (OSError, EOFError) as error:
            code = await self._kill(grace=1.0)
            raise WorkerFailed("Crashed", f"ended in the middle of its work ({_exit(code)})") from error
        except asyncio.CancelledError:
            await self._kill()
            raise
        self._retire = asyncio.get_running_loop().call_later(self._idle, self._end_idle)
        try:
            result, said, peak = await aside(lambda: pickle.loads(content))  # noqa: S301  see worker.py
        except Exception as error:
            await self._kill()
            raise WorkerFailed("Crashed", f"gave an answer that cannot be read: {type(error).__name__}") from error
        self.peak_bytes = max(self.peak_bytes, peak)
        if said:
            raise WorkerFailed("Refused", f"could not solve it: {said}")
        return result

    async def close(self) -> None:
        if self._retire is not None:
            self._retire.cancel()
        await self._kill()
        for task in self._ending:
            task.cancel()

    async def _exchange(self, request: bytes) -> bytes:
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(request)
        await process.stdin.drain()
        length = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
        if length > LARGEST:
            raise EOFError
        return await process.stdout.readexactly(length)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            # The package may be on this process's path only (a source tree); and one thread, as results must not depend
            # on how many there are.
            paths = [str(Path(edgeward.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            environ = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "edgeward.hub.worker",
                self._work,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **environ},
            )
            self.starts += 1
        return self._process

    def _end_idle(self) -> None:
        task = asyncio.get_running_loop().create_task(self._kill_gently())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _kill_gently(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _kill(self, *, grace: float = 0.0) -> int | None:
        """grace: seconds for one that has closed its pipes to end by itself, so that its exit status can be told."""
        process, self._process = self._process, None
        if process is None:
            return None
        if grace:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    return await process.wait()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


def _exit(code: int | None) -> str:
    if code is None:
        return "it never started"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
