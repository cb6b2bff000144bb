"""Leadership by a coordination.k8s.io Lease.

The holder renews; the others wait until it has not renewed for `duration`, as seen by their own monotonic clock from the
moment they last saw it change (so clocks of different machines need not agree; client-go does the same).
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from .client import ApiError, Client, WriteRefused
from .resources import LEASES, Object

log = logging.getLogger(__name__)
HOLDER_HEADER = "X-Edgeward-Leader"
"""shows a leader that whoever asks it may read its Lease, where its identity stands"""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    duration: float = 10.0
    """seconds without a renewal after which another may take over"""
    renew_deadline: float = 6.0
    """seconds after its last renewal at which the holder stops writing; less than duration by more than a request takes"""
    retry: float = 1.5
    """seconds between two looks at the Lease"""


class Leadership:
    """Runs for the Lease and says whether this process may write.

    `check` is the guard of every write: it costs no request, only a look at the clock. A process that was stopped and
    continued after its Lease ran out is therefore refused by itself, and what it had in flight by the resource version
    that changes of the hub carry.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        settings: LeaseSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._settings = settings or LeaseSettings()
        # Two calls that hang must not cost the Lease.
        self._limit = max((self._settings.renew_deadline - self._settings.retry) / 2, 0.5)
        self._clock = clock
        self._renewed = float("-inf")
        self._seen: tuple[str, float] = ("", clock())
        self.lease: Object = {}
        self.elected = asyncio.Event()

    @property
    def leading(self) -> bool:
        return self._clock() - self._renewed < self._settings.renew_deadline

    def check(self) -> None:
        if not self.leading:
            raise WriteRefused(f"{self.identity} does not hold the lease {self._namespace}/{self._name}")

    async def run(self) -> None:
        """Until cancelled. Returns when leadership was held and lost: the process is expected to end then."""
        while True:
            try:
                await self._step()
            except ApiError as error:
                if not error.conflict:
                    log.warning("lease: %s", error)
            if self.leading:
                self.elected.set()
            elif self.elected.is_set():
                log.error("lease lost by %s", self.identity)
                return
            await asyncio.sleep(self._settings.retry)

    async def release(self) -> None:
        """Let the next one start at once. Called at a clean end."""
        if not self.leading:
            return
        spec = {**self.lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        self._renewed = float("-inf")
        await self._put({**self.lease, "spec": spec})

    async def _step(self) -> None:
        asked = self._clock()
        try:
            self.lease = await self._client.request("GET", LEASES.path(self._namespace, self._name), limit=self._limit)
        except ApiError as error:
            if not error.not_found:
                raise
            if not self.leading and self._seen[0] and self._clock() - self._seen[1] < self._settings.duration:
                # Somebody deleted it, and whoever held it may go on writing for as long as if it were there.
                return
            self.lease = await self._create()
            self._renewed = asked
            return
        spec = self.lease.get("spec") or {}
        mine = spec.get("holderIdentity") == self.identity
        if not mine and not self._expired(spec):
            return
        transitions = int(spec.get("leaseTransitions") or 0) + (0 if mine else 1)
        acquired = spec.get("acquireTime") if mine else _micro_time()
        asked = self._clock()
        self.lease = await self._put({**self.lease, "spec": self._spec(transitions, acquired or _micro_time())})
        if not mine:
            log.info("lease %s/%s taken by %s", self._namespace, self._name, self.identity)
        self._renewed = asked

    def _expired(self, spec: Object) -> bool:
        version = self.lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        if not spec.get("holderIdentity"):
            return True
        return self._clock() - self._seen[1] >= float(spec.get("leaseDurationSeconds") or self._settings.duration)

    def _spec(self, transitions: int, acquired: str) -> Object:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._settings.duration),
            "acquireTime": acquired,
            "renewTime": _micro_time(),
            "leaseTransitions": transitions,
        }

    async def _create(self) -> Object:
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._spec(0, _micro_time()),
        }
        created: Object = await self._client.request("POST", LEASES.path(self._namespace), body=body, limit=self._limit)
        return created

    async def _put(self, lease: Object) -> Object:
        # Not through Client.replace: the guard there asks this very object.
        path = LEASES.path(self._namespace, self._name)
        put: Object = await self._client.request("PUT", path, body=lease, limit=self._limit)
        return put


def _micro_time() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
