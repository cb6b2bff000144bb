"""Turns offloading on, off and to another server when the job says so, without losing a request or a count."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from time import perf_counter

from edgeward_runtime.call import Call
from edgeward_runtime.engine import Engine
from edgeward_runtime.offload.asked import Asked
from edgeward_runtime.offload.client import Client, Target
from edgeward_runtime.offload.forward import Forwarder, Policy, Stats
from edgeward_runtime.offload.steering import Budget, Steering

log = logging.getLogger(__name__)


class Switch:
    """Used in the event loop's thread."""

    def __init__(
        self, *, engine: Engine, loop: asyncio.AbstractEventLoop, token_file: Path | None, hold_seconds: float
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._token_file = token_file
        self._hold_seconds = hold_seconds
        self._asked: Asked | None = None
        self._stats = Stats()

    @property
    def forwarder(self) -> Forwarder | None:
        return self._engine.offload

    def adopt(self, asked: Asked | None) -> None:
        if asked == self._asked:
            return
        old = self._engine.offload
        self._asked = asked
        self._engine.offload = None if asked is None else self._made(asked)
        self._engine.gap = None if self._engine.offload is None else self._fills
        if old is not None:
            old.retire()  # what is on its way is answered still
        log.info("offload", extra={"url": asked.url if asked else "", "criterion": asked.criterion if asked else ""})

    def _made(self, asked: Asked) -> Forwarder | None:
        try:
            client = Client(Target(url=asked.url, ca=asked.ca, token_file=self._token_file))
        except (ValueError, OSError) as error:  # OSError: certificates that are none
            log.error("offload is off", extra={"error": str(error)})
            return None
        return Forwarder(
            client=client,
            policy=Policy(criterion=asked.criterion, spill=asked.spill, latency=asked.latency, hold=self._hold_seconds),
            steering=Steering(Budget(share=asked.share, bytes_per_hour=asked.bytes_per_hour), now=perf_counter()),
            loop=self._loop,
            stats=self._stats,
        )

    def _fills(self, call: Call) -> bool:
        """While no version is loaded (modelSwap: OffloadInGap)."""
        forwarder = self._engine.offload
        return forwarder is not None and call.done is not None and forwarder.fills(call, call.done)
