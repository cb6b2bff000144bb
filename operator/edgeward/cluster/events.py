"""Events for what a user would want to know: few, in the past tense, repeated ones counted instead of piled up."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from .client import ApiError, Client, WriteRefused
from .resources import EVENTS, Object, Resource

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    name: str
    namespace: str
    count: int
    at: float


@dataclass(slots=True)
class Recorder:
    """Writes core/v1 Events about one object at a time.

    The same (object, reason, message) within `quiet` seconds is not written again; after that its count goes up.
    """

    client: Client
    component: str
    quiet: float = 300.0
    clock: Callable[[], float] = time.monotonic
    rest: float = 2.0
    """Events are written one after the other; of the time that one took, how long to leave the API server to others
    before the next, so that a burst of news leaves room for work"""
    _told: dict[tuple[str, str, str], _Told] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _free_at: float = float("-inf")

    async def tell(self, resource: Resource, obj: Object, reason: str, message: str, *, warning: bool = False) -> None:
        async with self._turn:
            await asyncio.sleep(max(self._free_at - time.monotonic(), 0.0))
            begun = time.monotonic()
            await self._tell(resource, obj, reason, message, warning=warning)
            ended = time.monotonic()
            self._free_at = ended + self.rest * (ended - begun)

    async def _tell(self, resource: Resource, obj: Object, reason: str, message: str, *, warning: bool) -> None:
        meta = obj["metadata"]
        identity = (str(meta.get("uid", "")), reason, message)
        told, now = self._told.get(identity), self.clock()
        if told is not None and now - told.at < self.quiet:
            return
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = meta.get("namespace") or "default"
        try:
            if told is not None and await self._count(told, now, stamp):
                return
            name = f"{meta['name'][:200]}.{uuid.uuid4().hex[:12]}"
            self._remember(identity, _Told(name=name, namespace=namespace, count=1, at=now))
            body = {
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": resource.api_version,
                    "kind": resource.kind,
                    "name": meta["name"],
                    "namespace": meta.get("namespace", ""),
                    "uid": meta.get("uid", ""),
                },
                "type": "Warning" if warning else "Normal",
                "reason": reason,
                "message": message[:1000],
                "source": {"component": self.component},
                "reportingComponent": self.component,
                "firstTimestamp": stamp,
                "lastTimestamp": stamp,
                "count": 1,
            }
            await self.client.create(EVENTS, body, manager=self.component)
        except (ApiError, WriteRefused) as error:
            self._told.pop(identity, None)
            # An Event that could not be written must never hold up the work that it tells of.
            log.warning("event %s on %s: %s", reason, meta["name"], error)

    async def _count(self, told: _Told, now: float, stamp: str) -> bool:
        """One more of an Event. False when it has expired meanwhile: the API server forgets them after an hour."""
        patch = {"count": told.count + 1, "lastTimestamp": stamp}
        try:
            await self.client.merge(EVENTS, told.namespace, told.name, patch, manager=self.component)
        except ApiError as error:
            if not error.not_found:
                raise
            return False
        told.count, told.at = told.count + 1, now
        return True

    def _remember(self, identity: tuple[str, str, str], told: _Told) -> None:
        if len(self._told) >= 5000:
            del self._told[next(iter(self._told))]
        self._told[identity] = told
