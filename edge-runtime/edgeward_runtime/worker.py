"""Runs models off the event loop.

One thread with a bounded queue: a long run must not hold up health checks, metrics and other clients, and more than one
run at a time would only make them share the same cores. The hop is kept cheap: a C queue, no executor, no future, one
wake-up of the loop per run. Batching needs no timer: while a run lasts others come in, and the next run takes all of
them that fit together; when nothing runs, a call runs at once. A record is prepared in the same thread when its turn has
come, so that what is more urgent passes it by and one that nobody waits for any more costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from time import perf_counter_ns

from edgeward_runtime import batch, overload
from edgeward_runtime.call import Call, Done
from edgeward_runtime.errors import ProtocolError, without_values
from edgeward_runtime.overload import Backlog
from edgeward_runtime.preprocess import record
from edgeward_runtime.waiting import Waiting, lapsed

log = logging.getLogger(__name__)

# What onnxruntime raises when a value in the request is one that the model's graph cannot take.
_CLIENTS_FAULT = frozenset({"InvalidArgument", "Fail", "RuntimeException", "UnicodeDecodeError"})
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "Unable to allocate")


class Worker:
    """`submit` is called in the loop's thread only, which is why `pending` and the backlog need no lock."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        limit_bytes: int = 2**62,
        out_of_memory: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = loop
        self._out_of_memory = out_of_memory  # told after a run for which there was not enough
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edgeward-infer", daemon=True)
        self.backlog = Backlog(limit=limit, limit_bytes=limit_bytes)
        self.pending = 0  # waiting or running
        self._ends = False  # stop() was called

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False if the thread ended by itself: nothing but a new process helps then."""
        return self._ends or self._thread.ident is None or self._thread.is_alive()

    def stop(self) -> bool:
        """Ends the thread after what is queued, and says whether it has ended: a run may outlast any patience. The caller
        has drained the server before."""
        self._ends = True
        self._queue.put(None)
        self._thread.join(timeout=5)
        return not self._thread.is_alive()

    def submit(self, call: Call, done: Done) -> None:
        """Queues the call; `done(call)` is called in the loop's thread. ProtocolError 503 when there is no room or not
        enough time: waiting longer would only be slower."""
        now = perf_counter_ns()
        self.backlog.enter(call, now)
        self.pending += 1
        call.done = done
        call.queued_ns = now
        self._queue.put(call)

    def _run(self) -> None:
        waiting, stopping = Waiting(), False
        while not (stopping and not waiting):
            held: list[Call] = []  # neither waiting nor handed back
            try:
                stopping = self._turn(waiting, held) or stopping
            except Exception as error:
                # Whatever it was, the thread goes on: without it no request would get an answer any more.
                log.exception("the inference thread")
                self._give_up([*held, *waiting.clear()], error)
            del held

    def _turn(self, waiting: Waiting, held: list[Call]) -> bool:
        """Takes along what came and does what is next. True if it is to be the last."""
        arrivals, stopping = self._queue, False
        # Only sleeps when nothing waits; else takes along what came meanwhile.
        while not waiting or not arrivals.empty():
            call = arrivals.get()
            if call is None:
                stopping = True
                break
            held.append(call)
            waiting.add(call)
            held.clear()
            # Else this thread would keep the model and its tensors alive until the next request comes.
            del call
        calls, dropped = waiting.take(perf_counter_ns())
        held += calls
        held += dropped
        if dropped:
            self._drop(dropped)
        if calls and record.carried(calls[0]):
            self._prepare(calls, waiting)
        elif len(calls) > 1:
            self._run_together(calls)
        elif calls:
            self._run_one(calls[0])
        return stopping

    def _prepare(self, calls: list[Call], waiting: Waiting) -> None:
        """They wait again then, with tensors: what runs next is found anew."""
        for call in calls:
            now = perf_counter_ns()
            if lapsed(call, now):
                self._drop([call])
            elif record.prepare(call):
                call.started_ns = 0
                waiting.add(call)
            else:
                if call.error is not None and call.error.status == 413:
                    self._out_of_memory()
                call.started_ns = call.finished_ns = perf_counter_ns()
                call.together = 0  # nothing ran
                self._loop.call_soon_threadsafe(self._finish, [call])

    def _give_up(self, calls: list[Call], error: Exception) -> None:
        for call in calls:
            call.error = run_error(error)
            call.finished_ns = perf_counter_ns()
        # Those that were handed back before are not answered again, see _finish.
        self._loop.call_soon_threadsafe(self._finish, calls)

    def _drop(self, calls: list[Call]) -> None:
        for call in calls:
            call.error = overload.expired() if call.dropped == "expired" else overload.gone()
            call.started_ns = call.finished_ns = perf_counter_ns()
        self._loop.call_soon_threadsafe(self._finish, calls)

    def _run_together(self, calls: list[Call]) -> None:
        try:
            batch.run(calls)
        except Exception as error:
            if isinstance(error, batch.Unsplit):
                model = calls[0].model
                model.batch_rows, model.batch_off = 1, "RowsNotKept"
                log.warning("batching is off", extra={"model": model.name, "error": str(error)})
            # One of them may be at fault; the others must not notice.
            for call in calls:
                call.started_ns = perf_counter_ns()
                self._run_one(call)
            return
        finished = perf_counter_ns()
        for call in calls:
            call.finished_ns = finished
            call.together = 0
        calls[0].together = sum([call.rows for call in calls])
        self._loop.call_soon_threadsafe(self._finish, calls)

    def _run_one(self, call: Call) -> None:
        try:
            call.tensors = call.model.run(call.names, call.feeds)
        except Exception as error:
            call.error = run_error(error)
            if call.error.status == 413:
                self._out_of_memory()
        call.together = call.rows
        call.finished_ns = perf_counter_ns()
        self._loop.call_soon_threadsafe(self._finish, [call])

    def _finish(self, calls: list[Call]) -> None:
        """In the loop's thread."""
        try:
            if calls and calls[0].error is None and calls[0].together:
                overload.measured(calls)
        except Exception:
            log.exception("measuring")
        for call in calls:
            done, call.done = call.done, None
            if done is None:  # answered before
                continue
            self.pending -= 1
            self.backlog.leave(call)
            try:
                done(call)
            except Exception:  # the others are still to be answered
                log.exception("answering")


def run_error(error: Exception) -> ProtocolError:
    """What a failed run means for the client: a value the model cannot take is its fault, all else is ours."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return ProtocolError(413, "there is not enough memory to run this request")
    status = 400 if type(error).__name__ in _CLIENTS_FAULT else 500
    if status == 500:
        log.error("inference failed", extra={"error": without_values(error)})
    return ProtocolError(status, f"inference failed: {text}")
