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
from time import perf_counter_ns

from edgeward_runtime.call import Call, Done
from edgeward_runtime.errors import ProtocolError

log = logging.getLogger(__name__)

# What onnxruntime raises when a value in the request is one that the model's graph cannot take.
_CLIENTS_FAULT = frozenset({"InvalidArgument", "Fail", "RuntimeException", "UnicodeDecodeError"})


class Worker:
    """`submit` is called in the loop's thread only, which is why `pending` needs no lock."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edgeward-infer", daemon=True)
        self.limit = limit
        self.pending = 0  # waiting or running

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what is queued. The caller has drained the server before."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def submit(self, call: Call, done: Done) -> None:
        """Queues the call; `done(call)` is called in the loop's thread. 503 when the queue is full: waiting longer would
        only be slower."""
        if self.pending >= self.limit:
            raise ProtocolError(503, f"the queue is full ({self.limit} requests), try again later")
        self.pending += 1
        call.done = done
        call.queued_ns = perf_counter_ns()
        self._queue.put(call)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            call.started_ns = perf_counter_ns()
            try:
                call.tensors = call.model.run(call.names, call.feeds)
            except Exception as error:
                call.error = run_error(error)
            call.finished_ns = perf_counter_ns()
            self._loop.call_soon_threadsafe(self._finish, call)
            # Else this thread would keep the model and its tensors alive until the next request comes.
            del call

    def _finish(self, call: Call) -> None:
        self.pending -= 1
        if call.done is not None:
            call.done(call)


def run_error(error: Exception) -> ProtocolError:
    """What a failed run means for the client: a value the model cannot take is its fault, all else is ours."""
    text = " ".join(str(error).split())[:500]
    status = 400 if type(error).__name__ in _CLIENTS_FAULT else 500
    if status == 500:
        log.error("inference failed", extra={"error": text})
    return ProtocolError(status, f"inference failed: {text}")
