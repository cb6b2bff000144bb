"""What every front does with a call, whatever its wire format: count it, run it, tell who watches.

    call = engine.begin(model)        # the front parses into call.feeds, call.names, call.rows, call.id
    engine.run(call, done)            # done(call) follows once, in the event loop's thread, perhaps before this returns
    engine.finish(call)               # after the answer was encoded
    engine.tell(call)                 # after it was given to the connection
    engine.failed(call, error)        # instead of both, whatever went wrong on the way

Between begin and finish or failed the call holds its model: a version that was replaced is freed after them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from edgeward_runtime import overload
from edgeward_runtime.call import Call, Client, Done, Observer
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model
from edgeward_runtime.offload.wire import FORWARDED
from edgeward_runtime.overload import CLASSES, SLOW_NS
from edgeward_runtime.preprocess import record
from edgeward_runtime.preprocess.chain import RECORD
from edgeward_runtime.worker import Worker, run_error

if TYPE_CHECKING:
    from edgeward_runtime.learning import Learning
    from edgeward_runtime.offload.forward import Forwarder
    from edgeward_runtime.protocol import InferRequest

log = logging.getLogger(__name__)


class Engine:
    """Everything here runs in the event loop's thread."""

    def __init__(self, *, worker: Worker, observers: Sequence[Observer] = ()) -> None:
        self._worker = worker
        self._observers = tuple(observers)
        # Takes a call that no loaded version can answer, and ends it later with call.done; False if it cannot.
        self.gap: Callable[[Call], bool] | None = None
        self.offload: Forwarder | None = None  # hard and overflowing requests to another server
        self.learning: Learning | None = None  # capture, feedback, drift
        self.top_class = 1  # the job's own: no request is more urgent than its job

    def begin(self, model: Model) -> Call:
        model.inflight += 1
        return Call(model)

    def asked(self, call: Call, parsed: InferRequest, *, client: Client, timeout_us: int) -> None:
        """What a front parsed. `timeout_us`: how long its transport says that the caller waits, 0 = it does not say."""
        call.id, call.feeds, call.names, call.rows = parsed.id, parsed.feeds, parsed.names, parsed.rows
        call.client = client
        if parsed.parameters is not None:
            self.said(call, parsed.parameters)
        if parsed.urgency is not None or timeout_us:
            timeout, priority = parsed.urgency or (0, 0)
            if timeout_us:
                timeout = min(timeout, timeout_us) if timeout else timeout_us
            self.urgency(call, timeout_us=timeout, priority=priority)

    def urgency(self, call: Call, *, timeout_us: int, priority: int) -> None:
        """What a request says of itself, before its run, in Triton's terms: `timeout_us` from now in microseconds, 0 =
        none; `priority` 1 to 5, 1 the most urgent, 0 = the job's. Within the job's server only the distance counts."""
        if timeout_us:
            call.deadline_ns = call.start_ns + 1000 * timeout_us
        if priority > self.top_class:
            call.priority = 1 + min(priority, CLASSES) - self.top_class

    def said(self, call: Call, parameters: Mapping[str, Any]) -> None:
        """What a request's parameters say beside Triton's."""
        call.forwarded = parameters.get(FORWARDED) is True
        source = parameters.get("source")
        if type(source) is str:
            call.source = source[:256]

    def run(self, call: Call, done: Done) -> None:
        """ProtocolError 503 if there is no room in the queue, or its wait is longer than the call's deadline. All that
        goes wrong later is call.error."""
        model = call.model
        if model.split is not None and not call.pinned and model.split.takes(call.id):
            model.inflight -= 1
            model = call.model = model.split.canary
            model.inflight += 1
        if RECORD.name in call.feeds:
            call.rows = 1  # until it is prepared: a front counts its bytes
        if model.away:
            self._in_gap(call, done)
            return
        if self.offload is not None:
            self._run_or_offload(call, done, self.offload)
        elif call.rows > model.inline_rows or self._worker.pending or RECORD.name in call.feeds:
            self._worker.submit(call, done)
        else:
            self._run_here(call, done)

    def _run_here(self, call: Call, done: Done) -> None:
        # Shorter than two thread switches: nobody is held up longer by running it here.
        call.queued_ns = call.started_ns = perf_counter_ns()
        try:
            call.tensors = call.model.run(call.names, call.feeds)
        except Exception as failure:
            call.error = run_error(failure)
        call.finished_ns = perf_counter_ns()
        if call.finished_ns - call.started_ns > SLOW_NS:
            overload.measured([call])
        call.together = call.rows
        done(call)

    def _run_or_offload(self, call: Call, done: Done, offload: Forwarder) -> None:
        worker, model = self._worker, call.model
        answered = partial(offload.answered, done=done)
        if call.rows <= model.inline_rows and not worker.pending and RECORD.name not in call.feeds:
            self._run_here(call, answered)
            return

        def here() -> None:
            """After the other server gave no answer."""
            try:
                worker.submit(call, done)
            except ProtocolError as failure:
                call.error = failure
                done(call)

        wait = (worker.backlog.wait_ns(call.priority) + overload.cost_ns(call)) / 1e9
        if offload.spills(call, wait, done, here):
            return
        try:
            worker.submit(call, answered)
        except ProtocolError:
            if not offload.spills(call, inf, done, here):
                raise

    def _in_gap(self, call: Call, done: Done) -> None:
        """The version made room for the next one, which loads (modelSwap: OffloadInGap)."""
        call.done = done
        call.queued_ns = call.started_ns = call.finished_ns = perf_counter_ns()
        if self.gap is None or not self.gap(call):
            text = f"model '{call.model.name}' is being replaced by a version that does not fit in memory beside it"
            raise ProtocolError(503, text, b"retry-after: 1\r\n")

    def finish(self, call: Call) -> int:
        """Counts an answered call; answers the nanoseconds since its beginning."""
        end = perf_counter_ns()
        model = call.model
        self._end(call)
        duration = end - call.start_ns
        model.stats.success(
            call.rows,
            duration,
            call.queued_ns - call.start_ns,
            call.started_ns - call.queued_ns,
            call.finished_ns - call.started_ns,
            end - call.finished_ns,
            call.together,
        )
        model.stats.last_ns = end
        return duration

    def tell(self, call: Call) -> None:
        """Of an answered call, whoever watches. Raises nothing: an answer that is out cannot fail any more."""
        if call.record_bytes:
            self._guarded(record.finished, call)
            if call.prepared is None:
                return  # the answer of another call, which was told of
        for observer in self._observers:
            self._guarded(observer, call)
        if self.learning is not None:
            self._guarded(self.learning.answered, call)

    @staticmethod
    def _guarded(observer: Observer, call: Call) -> None:
        try:
            observer(call)
        except Exception as error:
            stats = call.model.stats
            stats.observer_failures += 1
            if stats.observer_failures.bit_count() == 1:  # the first, second, fourth ...: it may be each request
                log.error("observing an answer failed", exc_info=error, extra={"failures": stats.observer_failures})

    @staticmethod
    def _end(call: Call) -> None:
        """Once for each call, whatever goes wrong: a version is freed when its last call has ended."""
        if not call.ended:
            call.ended = True
            call.model.inflight -= 1

    def failed(self, call: Call, failure: Exception) -> ProtocolError:
        """Counts a call that gets no answer, and says what the client gets to read."""
        if isinstance(failure, MemoryError):
            failure = ProtocolError(413, "there is not enough memory to answer this request")
        if not isinstance(failure, ProtocolError):
            log.error("request failed", exc_info=failure)
            failure = ProtocolError(500, "internal error")
        model = call.model
        self._end(call)
        model.stats.failure(failure.status)
        if call.dropped:
            model.stats.drop(call.dropped)
        model.stats.failed_ns += perf_counter_ns() - call.start_ns
        learning, refused = self.learning, failure
        if learning is not None:
            self._guarded(lambda one: learning.failed(one, refused), call)
        return failure
