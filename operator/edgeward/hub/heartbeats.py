"""Which nodes are heard of: a kubelet renews its Lease every 10 s for as long as it reaches the API server.

Told by the change of the Lease, seen with this process's own clock: those of the nodes need not agree with it. A node's
Ready condition follows only when the node controller has made up its mind, 40 to 50 s later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import LEASES, Object

log = logging.getLogger(__name__)
NAMESPACE = "kube-node-lease"
INTERVAL = 5.0
"""seconds between two looks"""


@dataclass(slots=True)
class _Beat:
    revision: str
    at: float


class Heartbeats:
    def __init__(
        self,
        *,
        client: Client,
        ready: Callable[[], Iterable[str]],
        changed: Callable[[], None],
        silent_after: float = 40.0,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ready: the nodes that are Ready by now. changed: told when a node falls silent or is heard again.
        silent_after: seconds without a renewal."""
        self._client = client
        self._ready = ready
        self._changed = changed
        self._silent_after = silent_after
        self._interval = interval
        self._clock = clock
        self._beats: dict[str, _Beat] = {}
        self._looked: float | None = None
        self._problem = ""
        self.heard: Mapping[str, bool] = {}
        """by node that has a Lease: whether it was renewed lately"""

    async def run(self) -> None:
        while True:
            try:
                # The revision of a Lease changes with each renewal; its times, which nobody needs here, stay unread.
                leases, _ = await self._client.list(LEASES, namespace=NAMESPACE, metadata_only=True)
            except ApiError as error:
                if self._problem != str(error):
                    log.warning("the nodes' Leases cannot be read, their Ready conditions count: %s", error)
                self._problem = str(error)
                if error.status:  # else there is no answer, and the last word stands
                    self.heard = {}
            else:
                self._problem = ""
                self.look(leases)
            await asyncio.sleep(self._interval)

    def look(self, leases: Iterable[Object]) -> None:
        """Take in the Leases as they are now."""
        now = self._clock()
        missed = now - self._looked - self._interval if self._looked is not None else 0.0
        if missed > self._interval:
            # Nobody looked for a while, and the nodes may not have reached the API server either.
            for beat in self._beats.values():
                beat.at += missed
        self._looked = now
        first = not self._beats
        ready = frozenset(self._ready()) if first else frozenset()
        beats: dict[str, _Beat] = {}
        for lease in leases:
            meta = lease["metadata"]
            known = self._beats.get(meta["name"])
            if known is None:
                # At the start nobody has seen it change yet: the node controller has.
                known = _Beat(meta["resourceVersion"], now if not first or meta["name"] in ready else float("-inf"))
            elif known.revision != meta["resourceVersion"]:
                known = _Beat(meta["resourceVersion"], now)
            beats[meta["name"]] = known
        self._beats = beats
        heard = {name: now - beat.at < self._silent_after for name, beat in beats.items()}
        if heard != self.heard:
            self.heard = heard
            self._changed()
