"""Seeding the cache, and the check that the watches still live: a LIST now and then, compared with the cache."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .cache import Cache, Lag
from .client import ApiError, Client

log = logging.getLogger(__name__)


async def seed(client: Client, cache: Cache) -> None:
    """One paged LIST a kind. Raises ApiError when a kind cannot be listed: without it nothing may be decided."""
    for store in cache.stores.values():
        items, _ = await client.list(store.resource, selector=store.selector)
        store.seed(items)


async def compare(client: Client, cache: Cache, lag: Lag, *, now: float) -> None:
    """One round: how far each kind is behind. A LIST that fails says nothing about the watch."""
    for plural, store in cache.stores.items():
        try:
            items, version = await client.list(store.resource, selector=store.selector, metadata_only=True)
        except ApiError as error:
            log.warning("resync of %s: %s", plural, error)
            continue
        behind = store.differs(items, at=version)
        lag.note(plural, behind, now=now)
        if behind:
            log.info("resync of %s: %d behind, oldest since %.0f s", plural, len(behind), lag.worst(now=now))


async def watch_the_watches(
    client: Client, cache: Cache, lag: Lag, *, interval: float, clock: Callable[[], float] = time.monotonic
) -> None:
    """Until cancelled. Lag.dead() is what /healthz asks."""
    while True:
        await asyncio.sleep(interval)
        await compare(client, cache, lag, now=clock())
