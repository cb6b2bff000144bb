"""Runs models off the event loop.

One thread with a bounded queue: a long run must not hold up health checks, metrics and other clients, and more than one
run at a time would only make them share the same cores. The hop is kept cheap: a C queue, no executor, no future, one
wake-up of the loop per answer. Batching (taking everything that waits in one go) has its place in `_run`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from time import perf_counter_ns

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import Array

log = logging.getLogger(__name__)

# What onnxruntime raises when a value in the request is one that the model's graph cannot take.
_CLIENTS_FAULT = frozenset({"InvalidArgument", "Fail", "RuntimeException", "UnicodeDecodeError"})


class Job:
    """One run. After it, `tensors` or `error` is set; times are perf_counter_ns."""

    __slots__ = ("done", "error", "feeds", "finished_ns", "model", "names", "queued_ns", "started_ns", "tensors")

    def __init__(self, *, model: Model, feeds: dict[str, Array], names: list[str]) -> None:
        self.model = model
        self.feeds = feeds
        self.names = names
        self.done: Callable[[Job], None] | None = None
        self.error: ProtocolError | None = None
        self.tensors: list[Array] = []
        self.queued_ns = self.started_ns = self.finished_ns = 0


class Worker:
    """`submit` is called in the loop's thread only, which is why `pending` needs no lock."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edgeward-infer", daemon=True)
        self.limit = limit
        self.pending = 0  # waiting or running

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what is queued. The caller has drained the server before."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def submit(self, job: Job, done: Callable[[Job], None]) -> None:
        """Queues the job; `done(job)` is called in the loop's thread. 503 when the queue is full: waiting longer would
        only be slower."""
        if self.pending >= self.limit:
            raise ProtocolError(503, f"the queue is full ({self.limit} requests), try again later")
        self.pending += 1
        job.done = done
        job.queued_ns = perf_counter_ns()
        self._queue.put(job)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            job.started_ns = perf_counter_ns()
            try:
                job.tensors = job.model.run(job.names, job.feeds)
            except Exception as error:
                job.error = run_error(error)
            job.finished_ns = perf_counter_ns()
            self._loop.call_soon_threadsafe(self._finish, job)
            # Else this thread would keep the model and its tensors alive until the next request comes.
            del job

    def _finish(self, job: Job) -> None:
        self.pending -= 1
        if job.done is not None:
            job.done(job)


def run_error(error: Exception) -> ProtocolError:
    """What a failed run means for the client: a value the model cannot take is its fault, all else is ours."""
    text = " ".join(str(error).split())[:500]
    status = 400 if type(error).__name__ in _CLIENTS_FAULT else 500
    if status == 500:
        log.error("inference failed", extra={"error": text})
    return ProtocolError(status, f"inference failed: {text}")
