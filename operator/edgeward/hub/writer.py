"""The hub's writes to its own kinds: conditional, a few at a time, and patient with what the API server will not have."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import Object, Resource

from .refused import Refused

log = logging.getLogger(__name__)
MANAGER = "edgeward-hub"
FIRST_CONFLICT, FIRST_REFUSAL = 0.2, 1.0
"""seconds until the next try of a write that came too late, and of one that the API server will not have"""


class Writer:
    def __init__(self, *, client: Client, cache: Cache, at_once: int, again: Callable[[], None]) -> None:
        """again: called when what was refused may be tried once more; nothing is tried again without a new plan."""
        self._client = client
        self._cache = cache
        self._slots = asyncio.Semaphore(at_once)
        self._again = again
        self._refused = Refused()
        self.failed = 0

    async def apply(self, resource: Resource, body: Object, *, subresource: str = "") -> bool:
        """Whether it went through. The cache then holds what the API server made of it."""
        meta = body["metadata"]
        key = (resource.plural, meta.get("namespace", ""), meta["name"], subresource)
        version = str(meta.get("resourceVersion", ""))
        if self._refused.holds(key, version, now=time.monotonic()):
            return False
        async with self._slots:
            try:
                answer = await self._client.apply(resource, body, manager=MANAGER, subresource=subresource)
            except ApiError as error:
                # Edited meanwhile, or gone: the watch brings what is there now. Anything else is tried again later.
                known = error.conflict or error.not_found
                if not known:
                    self.failed += 1
                    log.warning("%s %s: %s", resource.kind, meta["name"], error)
                first = FIRST_CONFLICT if known else FIRST_REFUSAL
                delay = self._refused.note(key, version, first=first, now=time.monotonic())
                asyncio.get_running_loop().call_later(delay, self._again)
                return False
            self._refused.forget(key)
            self._cache[resource].put(answer)
            return True
