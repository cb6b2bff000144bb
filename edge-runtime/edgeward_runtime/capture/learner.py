"""The thread that looks at answers after they were given: confidence, drift, rules, feedback.

It is handed what the event loop let through, works on it by the batch, and hands rows to the ring's writer. It rests
between batches: a request that comes meanwhile costs it nothing but its place in the next one. Python runs one thread
at a time, so it also steps aside between any two pieces of work.
"""

from __future__ import annotations

import collections
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from edgeward_runtime import confidence
from edgeward_runtime.artifact import reference
from edgeward_runtime.capture import feedback
from edgeward_runtime.capture.feedback import Accuracy, Recent, Remembered, Told
from edgeward_runtime.capture.policy import ALWAYS, DRIFTED, ERROR, LOW_CONFIDENCE, Policy, Redaction
from edgeward_runtime.capture.record import Taken, encode
from edgeward_runtime.capture.ring import Row
from edgeward_runtime.capture.stats import CaptureStats
from edgeward_runtime.capture.tap import Tap
from edgeward_runtime.capture.writer import Label, Sketch, Writer
from edgeward_runtime.drift.monitor import Sample
from edgeward_runtime.tensors import Array

log = logging.getLogger(__name__)

MOST_HANDED = 2048
MOST_HANDED_BYTES = 32 * 2**20
REMEMBERED = 8192  # answers that a label finds without the ring
_GATHER_SECONDS = 0.1
_GATHER_DRIFT_SECONDS = 1.0  # where nothing but drift is looked at: the fewer wake-ups, the less a look costs
_ENOUGH = 512  # handed over, and it does not gather any longer
_SKETCH_SECONDS = 1800.0  # less than the window's slots keep
_DRIFT_SECONDS = 10.0
# Of the CPU that the process spends on a request, for looking at its drift. With what the event loop spends on letting
# the others pass it stays under 1%.
_SHARE = 0.006
_MOST_STRIDE = 4096
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was handed over. `answers` are in the order of `names`."""

    tap: Tap
    id: str
    rows: int
    seconds: float
    feeds: Mapping[str, Array]
    names: Sequence[str]
    answers: Sequence[Array]
    sampled: bool
    size: int
    status: int = 200
    error: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """Feedback that waits to be told its outcome."""

    model: str
    version: str  # empty: any
    told: Told
    answer: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Follow:
    policy: Policy | None


class Learner:
    """`hand` and `ask` are for the event loop's thread. wall: unix seconds. requests: those of the process so far, for
    the share of the CPU that drift takes."""

    def __init__(
        self,
        *,
        writer: Writer,
        stats: CaptureStats,
        accuracy: Accuracy,
        requests: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._stats = stats
        self._accuracy = accuracy
        self._requests = requests
        self._wall = wall
        self._recent = Recent(REMEMBERED)
        self._policy: Policy | None = None
        self._queue: collections.deque[Seen | Asked | _Follow] = collections.deque()
        self._bytes = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._taps: dict[tuple[str, str, str], Tap] = {}  # with drift to be sketched
        self._sketch_at = 0.0
        self._measured = (0, 0)  # (requests, CPU ns) at the last look
        self._request_ns = 0.0
        self.cpu_ns = 0  # of this thread
        self._accounted_ns = 0
        self.samples = 0  # requests whose drift was looked at

    # -- from the event loop --------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._thread is None:
            self._measured = (self._requests(), time.process_time_ns())
            self._sketch_at = time.monotonic() + _SKETCH_SECONDS
            self._thread = threading.Thread(target=self._run, name="edgeward-learn", daemon=True)
            self._thread.start()

    def follow(self, policy: Policy | None) -> None:
        self.start()
        self._queue.append(_Follow(policy))
        self._wake.set()

    def hand(self, seen: Seen) -> None:
        queue = self._queue
        if len(queue) >= MOST_HANDED or self._bytes + seen.size > MOST_HANDED_BYTES:
            self._stats.drop("HandOverFull")
            return
        self._bytes += seen.size
        queue.append(seen)
        if len(queue) == 1:
            self._wake.set()
        elif len(queue) == _ENOUGH:
            self._hurry.set()

    def ask(self, asked: Asked) -> None:
        """asked.answer is called once, in another thread."""
        if self._stopping or len(self._queue) >= MOST_HANDED:
            asked.answer(feedback.UNAVAILABLE)
            return
        self._queue.append(asked)
        self._hurry.set()
        self._wake.set()

    def stop(self) -> None:
        """Ends after what is queued, and waits for that, but not long; the writer has to be stopped after it."""
        self._stopping = True
        self._hurry.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=_STOP_SECONDS)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            pending = any(tap.sketched is False for tap in self._taps.values())
            self._wake.wait(max(self._sketch_at - time.monotonic(), 0.0) if pending else None)
            learns = self._policy is not None and self._policy.redaction > Redaction.NONE
            self._hurry.wait(_GATHER_SECONDS if learns else _GATHER_DRIFT_SECONDS)
            self.step()
            self.cpu_ns = time.thread_time_ns()
        self.step()  # what came while the last one ran
        self._keep_sketches(closed=False)

    def step(self) -> None:
        """Works on all that is queued."""
        self._wake.clear()
        self._hurry.clear()
        self._bytes, count = 0, len(self._queue)
        seen: list[Seen] = []
        for _ in range(count):
            item = self._queue.popleft()
            if isinstance(item, Seen):
                seen.append(item)
                continue
            # In the order in which they came: a label follows its answer.
            self._look(seen)
            seen = []
            try:
                if isinstance(item, Asked):
                    self._told(item)
                else:
                    self._followed(item.policy)
            except Exception:
                log.exception("feedback")
        self._look(seen)
        if time.monotonic() >= self._sketch_at:
            self._keep_sketches(closed=True)

    def _followed(self, policy: Policy | None) -> None:
        self._policy = policy
        if policy is None or policy.redaction is Redaction.NONE:
            self._recent.clear()
            self._taps = {}

    def _look(self, seen: list[Seen]) -> None:
        by_tap: dict[Tap, list[Seen]] = {}
        for one in seen:
            by_tap.setdefault(one.tap, []).append(one)
        for tap, some in by_tap.items():
            try:
                if tap.everything:
                    self._learn(tap, some)
                self._drift(tap, [one for one in some if one.sampled])
            except Exception:
                # What one model puts out must not end the others'.
                log.exception("learning", extra={"model": tap.version[0]})

    # -- confidence, rules, rows ----------------------------------------------------------------------------------

    def _learn(self, tap: Tap, seen: list[Seen]) -> None:
        known = _classes(tap, [one for one in seen if one.status == 200])
        policy = self._policy
        for number, one in enumerate(seen):
            if number % 16 == 0:
                time.sleep(0)  # lets the event loop run
            classes, sure = known.get(id(one), ((), ()))
            if one.status == 200 and one.id:
                self._remember(one, classes)
            if policy is None or policy.redaction < Redaction.FEATURES:
                continue
            why = _why(tap, one, sure)
            rule = tap.sampler.pick(why)
            if rule is None:
                continue
            self._stats.picked[rule.when] = self._stats.picked.get(rule.when, 0) + 1
            at_ms = int(self._wall() * 1000)
            body = encode(_taken(tap, one, classes, sure, why, at_ms), policy.redaction)
            self._writer.put(Row(one.id, at_ms, rule.priority, policy.redaction, body))

    def _remember(self, one: Seen, classes: tuple[int, ...]) -> None:
        labels = self._recent.answered(one.id, Remembered(one.tap.version, classes))
        if labels is not None:
            self._accuracy.count(one.tap.version, feedback.judge(classes, labels))

    # -- drift ----------------------------------------------------------------------------------------------------

    def _drift(self, tap: Tap, seen: list[Seen]) -> None:
        if not seen or tap.monitor is None:
            return
        start = time.thread_time_ns()
        tap.monitor.add(
            Sample(one.rows, one.feeds, one.names, one.answers) for one in seen if one.status == 200
        )  # fmt: skip
        self._taps[tap.version] = tap
        tap.sketched = False
        now = time.monotonic()
        if now - tap.looked_at >= _DRIFT_SECONDS:
            tap.looked_at = now
            worst = tap.monitor.worst_psi()
            tap.drifted = worst is not None and worst >= tap.thresholds.drift
        # Where the thread does nothing else, all that it took since the last look is the price of this one.
        now_ns = time.thread_time_ns()
        spent = now_ns - (start if tap.everything else self._accounted_ns)
        self._accounted_ns = now_ns
        self.samples += len(seen)
        self._pace(tap, spent / len(seen))

    def _pace(self, tap: Tap, sample_ns: float) -> None:
        """One request in so many is looked at that the looks take _SHARE of the CPU of all."""
        requests, spent = self._requests(), time.process_time_ns()
        count = requests - self._measured[0]
        if count >= 100:
            self._request_ns = (spent - self._measured[1]) / count
            self._measured = (requests, spent)
        if self._request_ns:
            wanted = math.ceil(sample_ns / (_SHARE * self._request_ns))
            # Not by one batch alone, which may have been a small one.
            tap.stride = min(max((3 * tap.stride + wanted + 2) // 4, 1), _MOST_STRIDE)

    def _keep_sketches(self, *, closed: bool) -> None:
        self._sketch_at = time.monotonic() + _SKETCH_SECONDS
        policy = self._policy
        if policy is None or policy.redaction < Redaction.SKETCH:
            return
        for tap in list(self._taps.values()):
            if tap.monitor is None or tap.sketched:
                continue
            taken = tap.monitor.take(closed=closed)
            tap.sketched = True
            if taken is None:
                continue
            document = {**reference.document(taken), "origin": tap.monitor.origin, "version": tap.version[1]}
            at_ms = int(self._wall() * 1000)
            self._writer.put(Sketch(tap.version[0], tap.version[2], at_ms, orjson.dumps(document)))

    # -- feedback -------------------------------------------------------------------------------------------------

    def _told(self, asked: Asked) -> None:
        policy, told = self._policy, asked.told
        if policy is None or policy.redaction is Redaction.NONE:
            self._answer(asked, feedback.UNAVAILABLE)
            return
        label = Label(told.id, orjson.dumps(told.labels), int(self._wall() * 1000), _nobody)
        answer = self._recent.find(told.id)
        if answer is not None and _is_of(asked, answer.version):
            before, answer.labels = answer.labels, told.labels
            if before is None:
                self._accuracy.count(answer.version, feedback.judge(answer.classes, told.labels))
            if policy.redaction >= Redaction.FEATURES:
                self._writer.label(label)
            outcome = feedback.JOINED if before is None else _again(before, told.labels)
            self._answer(asked, outcome)
            return
        if policy.redaction < Redaction.FEATURES:
            self._recent.early(told)
            self._answer(asked, feedback.UNKNOWN)
            return

        def found(ring: tuple[bytes | None, bytes | None] | None) -> None:
            """In the writer's thread."""
            self._answer(asked, self._from_ring(asked, ring))

        self._recent.early(told)
        if not self._writer.label(Label(told.id, label.label, label.at_ms, found)):
            self._answer(asked, feedback.UNAVAILABLE)

    def _from_ring(self, asked: Asked, ring: tuple[bytes | None, bytes | None] | None) -> str:
        if ring is None:
            return feedback.UNAVAILABLE
        before, body = ring
        if before is not None:
            return _again(tuple(orjson.loads(before)), asked.told.labels)
        if body is None:
            return feedback.KEPT
        self.joined(asked.told.labels, body)
        return feedback.JOINED

    def joined(self, labels: Sequence[feedback.Label], body: bytes) -> None:
        """A label and a record of the ring that had not met before."""
        length = int.from_bytes(body[:4], "little")
        header = orjson.loads(body[4 : 4 + length])
        version = (header["model"], header["version"], header["digest"])
        self._accuracy.count(version, feedback.judge(header["classes"], labels))

    def late(self, request_id: str, label: bytes, body: bytes) -> None:
        """In the writer's thread, of a row whose label was in the ring before it: told to another replica, which had
        not the answer; or to this one, which then has counted it."""
        known = self._recent.find(request_id)
        if known is None or known.labels is None:
            if known is not None:
                known.labels = tuple(orjson.loads(label))
            self.joined(tuple(orjson.loads(label)), body)

    def _answer(self, asked: Asked, outcome: str) -> None:
        self._accuracy.outcome(outcome)
        asked.answer(outcome)


def _nobody(_ring: object) -> None:
    """Who told the label has been answered."""


def _is_of(asked: Asked, version: tuple[str, str, str]) -> bool:
    return asked.model == version[0] and asked.version in ("", version[1])


def _again(before: Sequence[feedback.Label], now: Sequence[feedback.Label]) -> str:
    return feedback.REPEATED if tuple(before) == tuple(now) else feedback.REPLACED


def _why(tap: Tap, one: Seen, sure: Sequence[float]) -> tuple[str, ...]:
    if one.status != 200:
        return (ERROR,)
    why = [ALWAYS]
    if any(value < tap.thresholds.low_confidence for value in sure):  # NaN is not low
        why.append(LOW_CONFIDENCE)
    if tap.drifted:
        why.append(DRIFTED)
    return tuple(why)


def _taken(
    tap: Tap, one: Seen, classes: tuple[int, ...], sure: tuple[float, ...], why: tuple[str, ...], at_ms: int
) -> Taken:
    model, version, digest = tap.version
    return Taken(
        id=one.id,
        model=model,
        version=version,
        digest=digest,
        at_ms=at_ms,
        rows=one.rows,
        seconds=one.seconds,
        inputs=tap.inputs,
        outputs=tap.outputs,
        feeds=one.feeds,
        answers=dict(zip(one.names, one.answers, strict=True)) if one.status == 200 else {},
        classes=classes,
        confidence=sure,
        status=one.status,
        error=one.error,
        why=why,
    )


Known = dict[int, tuple[tuple[int, ...], tuple[float, ...]]]


def _classes(tap: Tap, seen: Iterable[Seen]) -> Known:
    """By id() of the request: class and confidence of each row. All of a batch in one numpy call a step."""
    scores = tap.scores
    groups: dict[int, list[tuple[Seen, Array]]] = {}
    known: Known = {}
    for one in seen:
        if scores is not None and scores.output in one.names:
            array = one.answers[one.names.index(scores.output)]
            if array.ndim == 2:
                groups.setdefault(array.shape[1], []).append((one, array))
        elif scores is None:
            known[id(one)] = (_whole_numbers(one), ())
    for group in groups.values():
        if scores is None:
            break
        probabilities = scores.probabilities(np.concatenate([array for _one, array in group]))
        if probabilities is None:
            continue
        classes = confidence.top_class(probabilities).tolist()
        sure = confidence.confidence(probabilities).tolist()
        at = 0
        for one, array in group:
            end = at + len(array)
            known[id(one)] = (tuple(classes[at:end]), tuple(sure[at:end]))
            at = end
    return known


def _whole_numbers(one: Seen) -> tuple[int, ...]:
    """A model that puts out one whole number a row, and no scores, says the class itself."""
    whole = [answer for answer in one.answers if answer.dtype.kind in "iu"]
    if len(whole) != 1 or whole[0].size != one.rows:
        return ()
    return tuple(whole[0].ravel().tolist())
