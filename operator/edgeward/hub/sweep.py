"""The deletion of Assignments whose jobs are gone for good, and what the hub's Lease remembers about it; see orphans."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from edgeward.api.conditions import Reason
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import ASSIGNMENTS, DEFINITIONS, INFERENCE_JOBS, LEASES, Object, key_of

from .orphans import CONFIRM, EVERY, HELD, Orphans, decide, held_text, read_held

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Sweep:
    client: Client
    cache: Cache
    recorder: Recorder
    namespace: str
    lease_name: str
    manager: str
    delete: Callable[[str], Awaitable[None]]
    """an Assignment by its name"""
    mark: Callable[[], None]
    """another pass is due"""
    look_every: float = 30.0
    """seconds between two looks at the Lease while no job is missing"""
    confirm_lasts: float = 300.0
    """seconds that a confirmation counts while no job is missing; forgotten, it would let a later accident pass"""
    clock: Callable[[], float] = time.monotonic
    orphans: Orphans = field(default_factory=Orphans)
    held: frozenset[str] = frozenset()
    _look_at: float = float("-inf")
    _confirmed_at: float | None = None
    _used: bool = False
    """something was deleted on the strength of a confirmation that is not taken off yet"""

    async def once(self) -> None:
        now = self.clock()
        missing = self.orphans.missing(self.cache[ASSIGNMENTS].all(), self.cache[INFERENCE_JOBS].all(), now=now)
        if not missing and self.orphans.since:
            asyncio.get_running_loop().call_later(self.orphans.grace, self.mark)
        settled = not self._used and self.orphans.still(self.held) == self.held
        if not missing and now < self._look_at and settled:
            return
        try:
            lease = await self.client.get(LEASES, self.namespace, self.lease_name)
            if missing:
                listed, _ = await self.client.list(INFERENCE_JOBS, metadata_only=True)
                definition = await self.client.get(DEFINITIONS, "", f"{INFERENCE_JOBS.plural}.{INFERENCE_JOBS.group}")
        except ApiError as error:
            self._look_at = now + self.look_every
            log.warning("jobs that are gone could not be confirmed: %s", error)
            return
        self._look_at = now + self.look_every
        annotations = lease["metadata"].get("annotations") or {}
        noted = read_held(annotations)
        confirmed = annotations.get(CONFIRM) == "true"
        self._used = self._used and confirmed
        # What this leader holds counts even if the note about it could not be written.
        self.held = self.orphans.still(noted | self.held)
        if not missing:
            await self._note(annotations, done=self._done(confirmed, now))
            return
        verdict = decide(
            missing,
            {key_of(item) for item in listed},
            definition=definition,
            confirmed=confirmed,
            held=self.held,
            away=tuple(self.orphans.since),
            born=self.orphans.born,
        )
        self.held |= verdict.jobs
        if verdict.held:
            await self._note(annotations, done=False)
            await self._tell(lease, len(verdict.held))
        await asyncio.gather(*(self.delete(name) for name in verdict.delete))
        # The word was for this once. It stands until all that it was for is on its way out: a DELETE may be refused,
        # and some jobs may be missing for too short a time yet.
        self._used = self._used or bool(verdict.delete and confirmed)

    def _done(self, confirmed: bool, now: float) -> bool:
        """Whether a confirmation has been of use, or has stood for too long with nothing to confirm."""
        if not confirmed or self.orphans.since:
            self._confirmed_at = None
            return False
        if self._confirmed_at is None:
            self._confirmed_at = now
        return self._used or now - self._confirmed_at >= self.confirm_lasts

    async def _note(self, annotations: Object, *, done: bool) -> None:
        """Write what is held to the Lease if it does not say so yet. done: take the confirmation off as well."""
        changes: dict[str, str | None] = {}
        if (annotations.get(HELD) or None) != held_text(self.held):
            changes[HELD] = held_text(self.held)
        if done and CONFIRM in annotations:
            changes[CONFIRM] = None
        if not changes:
            return
        patch = {"metadata": {"annotations": changes}}
        try:
            await self.client.merge(LEASES, self.namespace, self.lease_name, patch, manager=self.manager)
        except ApiError as error:
            self._look_at = float("-inf")
            log.warning("what is held could not be noted on the lease: %s", error)

    async def _tell(self, lease: Object, count: int) -> None:
        which = "every InferenceJob" if EVERY in self.held else f"{len(self.held)} InferenceJobs"
        message = (
            f"{which} gone at once or with their definition; {count} Assignments serve on until they are back. If "
            f"that was meant: kubectl -n {self.namespace} annotate lease {self.lease_name} {CONFIRM}=true"
        )
        await self.recorder.tell(LEASES, lease, Reason.ALL_JOBS_GONE, message, warning=True)
