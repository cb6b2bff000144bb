"""Joins offloading to the engine: after an answer was found hard, instead of a wait that is too long, or while no version
is loaded.

The edge's own answer is there before anything is asked elsewhere, and it is given when the job's latency bound says so,
whatever the other server does: a second opinion that comes late is counted and thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from edgeward_runtime import confidence
from edgeward_runtime.call import Call, Done
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.offload import wire
from edgeward_runtime.offload.client import Attempt, Client, Exchange, Refused, Unavailable
from edgeward_runtime.offload.routes import Route
from edgeward_runtime.offload.steering import Steering
from edgeward_runtime.offload.threads import Threads
from edgeward_runtime.preprocess.chain import RECORDS
from edgeward_runtime.tensors import Array

log = logging.getLogger(__name__)

HARD, SPILL, GAP = "Hard", "Spill", "Gap"
_THREADS = 4
_IN_FLIGHT = 16  # more would wait for a thread, which no prediction counts
_AFTER = 1.0  # seconds that an exchange may go on after its answer was due, to be compared
_GAP_SECONDS = 10.0  # for a request without a bound of its own while nothing is loaded here


@dataclass(slots=True)
class Stats:
    """Counters since the start, written in the loop's thread."""

    outcomes: dict[tuple[str, str], int] = field(default_factory=dict)  # (why, what came of it)
    compared: int = 0
    agreed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)  # (encoding, part)
    exchanges: dict[str, int] = field(default_factory=dict)  # by encoding
    unscored: int = 0  # answers whose hardness cannot be told

    def count(self, why: str, outcome: str) -> None:
        self.outcomes[why, outcome] = self.outcomes.get((why, outcome), 0) + 1

    def exchanged(self, encoding: str, one: Exchange) -> None:
        self.sent_bytes += one.sent
        self.received_bytes += one.received
        self.exchanges[encoding] = self.exchanges.get(encoding, 0) + 1
        for part in ("pack", "send", "execution", "unpack"):
            key = encoding, part
            self.seconds[key] = self.seconds.get(key, 0.0) + getattr(one, part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Of the job. `latency` is its bound in seconds (slo.latency), `hold` what an edge answer may wait without one."""

    criterion: str = "Confidence"  # Confidence | Margin | Entropy | Random
    spill: bool = False
    latency: float | None = None
    hold: float = 0.5


class Forwarder:
    """Everything but the exchanges themselves runs in the event loop's thread."""

    def __init__(
        self,
        *,
        client: Client,
        policy: Policy,
        steering: Steering,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = perf_counter,
        chance: Callable[[], float] = random.random,
        stats: Stats | None = None,
    ) -> None:
        self._client = client
        self._policy = policy
        self._steering = steering
        self._loop = loop
        self._clock = clock
        self._chance = chance
        self._threads = Threads(_THREADS)
        self._in_flight = 0
        self._retired = False
        self.route = Route()
        self.stats = Stats() if stats is None else stats

    @property
    def threshold(self) -> float:
        return self._steering.threshold

    def retire(self) -> None:
        """Takes nothing new; what is on its way comes back."""
        self._retired = True
        self._threads.stop()

    # -- a second opinion -----------------------------------------------------------------------------------------

    def answered(self, call: Call, done: Done) -> None:
        """A call has its answer from here; done(call) follows at once, or with a better one, never later than its
        bound."""
        now = self._clock()
        if call.error is not None or call.forwarded or self._retired:
            done(call)
            return
        # What a near duplicate repeats was asked about when it was new, and it has no inputs left to send.
        hardness = self._hardness(call) if call.feeds else None
        if hardness is None:
            self.stats.unscored += bool(call.feeds)
            self._steering.arrived()
            done(call)
            return
        if not self._steering.seen(hardness, now=now):
            done(call)
            return
        left = self._left(call, now)
        refused = self._refused(call, now, left)
        if refused is not None:
            self.stats.count(HARD, refused)
            done(call)
            return
        self._ask(call, left, done)

    def _hardness(self, call: Call) -> float | None:
        """0 (sure) .. 1 of the hardest row, None if the answer does not tell. Whatever goes wrong here, the answer that
        there is goes out."""
        try:
            return self._measured(call)
        except Exception:
            log.exception("how hard a request was")
            return None

    def _measured(self, call: Call) -> float | None:
        if self._policy.criterion == "Random":
            return self._chance()
        probabilities = _probabilities(call, call.tensors)
        if probabilities is None:
            return None
        match self._policy.criterion:
            case "Entropy":
                each = confidence.entropy(probabilities)
            case "Margin":
                each = 1.0 - confidence.margin(probabilities)
            case _:
                each = 1.0 - confidence.confidence(probabilities)
        known = each[~np.isnan(each)]
        return float(known.max()) if len(known) else None

    def _ask(self, call: Call, left: float, done: Done) -> None:
        """The answer waits for a better one, `left` seconds at most; one that comes later is compared and dropped."""
        own = call.tensors

        def better(one: Exchange) -> None:
            _take(call, one)
            done(call)

        def compare(one: Exchange | Exception) -> None:
            if isinstance(one, Exchange):
                self._compare(call, own, one.tensors)

        self._within(HARD, call, left, better, lambda _why: done(call), patience=2 * left + _AFTER, seen=compare)

    def _compare(self, call: Call, own: list[Array], other: list[Array]) -> None:
        mine, theirs = _probabilities(call, own), _probabilities(call, other)
        if mine is None or theirs is None or mine.shape[0] != theirs.shape[0]:
            return
        self.stats.compared += 1
        self.stats.agreed += bool(np.array_equal(confidence.top_class(mine), confidence.top_class(theirs)))

    # -- instead of a wait ----------------------------------------------------------------------------------------

    def spills(self, call: Call, wait: float, done: Done, otherwise: Callable[[], None]) -> bool:
        """Takes a call over whose `wait` and run (seconds) here would miss its bound, if the other server's answer will
        not; then done(call) follows, or otherwise() if there is none. False: it is the caller's still. A `wait` of inf
        means that there is no room for it here at all."""
        if not self._policy.spill or call.forwarded or self._retired:
            return False
        now = self._clock()
        left = self._left(call, now) if wait != float("inf") or self._bounded(call) else _GAP_SECONDS
        if wait <= left:
            return False
        refused = self._refused(call, now, left)
        if refused is not None:
            self.stats.count(SPILL, refused)
            return False
        self._steering.arrived()
        self._take_over(SPILL, call, left, done, lambda _why: otherwise())
        return True

    def fills(self, call: Call, done: Done) -> bool:
        """The same while no version is loaded here (OffloadInGap): the budget does not count, the answer is all there
        is."""
        now = self._clock()
        if call.forwarded or self._retired or not self.route.open(now) or self._in_flight >= _IN_FLIGHT:
            return False

        def nothing(why: Exception) -> None:
            if isinstance(why, Refused):
                call.error = ProtocolError(why.status, why.text)
            else:
                text = "the model is being replaced, and the server that stands in gave no answer"
                call.error = ProtocolError(503, text)
            done(call)

        left = self._left(call, now) if self._bounded(call) else _GAP_SECONDS
        self._take_over(GAP, call, max(0.0, left), done, nothing)
        return True

    def _take_over(self, why: str, call: Call, left: float, done: Done, otherwise: Callable[[Exception], None]) -> None:
        started = self._clock()

        def instead(one: Exchange) -> None:
            _take(call, one)
            call.together = 0  # nothing ran here
            call.queued_ns = call.started_ns = call.start_ns
            call.finished_ns = call.start_ns + round((self._clock() - started) * 1e9)
            done(call)

        self._within(why, call, left, instead, otherwise, patience=left)

    # -- both -----------------------------------------------------------------------------------------------------

    def _within(
        self,
        why: str,
        call: Call,
        left: float,
        came: Callable[[Exchange], None],
        nothing: Callable[[Exception], None],
        *,
        patience: float,
        seen: Callable[[Exchange | Exception], None] = lambda _one: None,
    ) -> None:
        """Asks the other server; came(answer) or nothing(why) follows once, `left` seconds from now at the latest. `seen`
        is told of what came in any case, late too."""
        waits = True

        def late() -> None:
            nonlocal waits
            waits = False
            self.stats.count(why, "Late")
            nothing(Unavailable("no answer in time"))

        timer = self._loop.call_later(left, late)

        def arrived(one: Exchange | Exception) -> None:
            timer.cancel()
            seen(one)
            if not waits:
                return
            self.stats.count(why, _outcome(one))
            if isinstance(one, Exception):
                nothing(one)
            else:
                came(one)

        self._send(call, left, arrived, patience=patience)

    def _bounded(self, call: Call) -> bool:
        return bool(call.deadline_ns) or self._policy.latency is not None

    def _left(self, call: Call, now: float) -> float:
        """Seconds until the answer is due."""
        bound = self._policy.hold if self._policy.latency is None else self._policy.latency
        left = call.start_ns / 1e9 + bound - now
        return min(left, call.deadline_ns / 1e9 - now) if call.deadline_ns else left

    def _refused(self, call: Call, now: float, left: float) -> str | None:
        """Why this call does not go, or None."""
        size = _size(call)
        if not self.route.open(now):
            return "RouteDown"
        if self._in_flight >= _IN_FLIGHT or (self._in_flight and not self.route.known()):
            return "Busy"
        if left <= 0 or self.route.at_most(size) > left:
            return "TooSlow"
        if not self._steering.affords(self.route.wire_bytes(size), now=now):
            return "OverBudget"
        return None

    def _send(
        self, call: Call, left: float, arrived: Callable[[Exchange | Exception], None], *, patience: float
    ) -> None:
        """One exchange; arrived(...) follows once, in the loop's thread. After `patience` seconds its connection is cut,
        whatever it is waiting for: a server that drips would hold a thread for ever."""
        model = call.model
        feeds, names, specs = call.feeds, list(call.names), dict(model.outputs)
        specs_in = {**model.inputs, **RECORDS}
        size = _size(call)
        reserved = self.route.wire_bytes(size)
        encoding = self.route.choose(size)
        attempt = Attempt()

        def work() -> None:
            one: Exchange | Exception
            try:
                body, json_length = wire.request(feeds, specs_in, names, id=call.id, timeout=left)
                one = self._client.exchange(
                    body,
                    json_length,
                    encoding=encoding,
                    timeout=patience,
                    specs=specs,
                    names=names,
                    attempt=attempt,
                )
            except (Unavailable, Refused, wire.WireError, ProtocolError) as error:
                one = error
            except Exception as error:
                log.exception("offload")
                one = error
            # A loop that has ended asks for nothing any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(back, one)

        def back(one: Exchange | Exception) -> None:
            cut.cancel()
            self._in_flight -= 1
            if isinstance(one, Exchange):
                parts = {"pack": one.pack, "send": one.send, "execution": one.execution, "unpack": one.unpack}
                self.route.took(encoding, size, sent=one.sent, **parts)
                self.stats.exchanged(encoding, one)
                self._steering.settle(reserved, one.sent + one.received)
            elif isinstance(one, Refused):
                self.route.refused()
                self._steering.settle(reserved, size)
            else:
                self.route.failed(self._clock(), self._chance())
                self._steering.settle(reserved, size)  # it may have travelled
                log.warning("offload failed", extra={"error": type(one).__name__})
            arrived(one)

        self.route.leaving()
        self._in_flight += 1
        self._steering.reserve(reserved, now=self._clock())
        cut = self._loop.call_later(patience, attempt.cut)
        try:
            self._threads.run(work)
        except RuntimeError as error:  # no further thread is to be had
            back(Unavailable(str(error)))


def _outcome(one: Exchange | Exception) -> str:
    if isinstance(one, Exchange):
        return "Answered"
    return "Refused" if isinstance(one, Refused) else "Failed"


def _take(call: Call, one: Exchange) -> None:
    call.tensors, call.answered_by = one.tensors, one.version
    call.notes = {**(call.notes or {}), "offloaded_to": one.version}


def _probabilities(call: Call, tensors: list[Array]) -> confidence.Floats | None:
    scores = call.model.scores
    if scores is None or scores.output not in call.names:
        return None
    return scores.probabilities(tensors[call.names.index(scores.output)])


def _size(call: Call) -> int:
    return sum(tensor.nbytes for tensor in call.feeds.values())
