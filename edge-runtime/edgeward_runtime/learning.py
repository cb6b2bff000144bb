"""Capture, feedback and drift as the server sees them: what the engine tells of, what the config asks for, what the
pages and metrics show. All but `prepare` is for the event loop's thread.

    engine.learning = None          # nothing is to be learned: one attribute check a request
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from edgeward_runtime.call import Call
from edgeward_runtime.capture import feedback
from edgeward_runtime.capture.feedback import Accuracy
from edgeward_runtime.capture.learner import Asked, Learner, Seen
from edgeward_runtime.capture.policy import NAME_OF, Policy, Redaction
from edgeward_runtime.capture.stats import CaptureStats
from edgeward_runtime.capture.tap import Tap
from edgeward_runtime.capture.writer import Writer
from edgeward_runtime.config import Config
from edgeward_runtime.drift.monitor import Drift
from edgeward_runtime.errors import ProtocolError, not_allowed
from edgeward_runtime.messages import Answer, Reply, Request
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeward_runtime.engine import Engine

log = logging.getLogger(__name__)

_LOOK_NS = 500_000_000  # between two looks at drift where requests are few
_OVERLOAD = frozenset({503, 504})  # the model has not seen these


class Learning:
    def __init__(
        self,
        *,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        models: Callable[[], Iterable[tuple[Model, str]]],
        root: Path,
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._models = models
        self.stats = CaptureStats()
        self.accuracy = Accuracy()
        self.policy: Policy | None = None
        self._writer = Writer(root=root, host=os.uname().nodename, stats=self.stats, labelled=self._late)
        self.learner = Learner(writer=self._writer, stats=self.stats, accuracy=self.accuracy, requests=self._requests)
        self._lock = threading.Lock()
        self._taps: weakref.WeakSet[Tap] = weakref.WeakSet()

    def _late(self, request_id: str, label: bytes, body: bytes) -> None:
        self.learner.late(request_id, label, body)

    def _requests(self) -> int:
        return sum({id(model.stats): model.stats.successes for model, _state in self._models()}.values())

    # -- what is to be learned ------------------------------------------------------------------------------------

    def prepare(self, model: Model, *, before: Model | None = None) -> None:
        """In the thread that loads it. Refusal for parameters or a reference that make no sense. before: the same version
        under other parameters, whose drift is this one's."""
        tap = Tap(
            version=(model.name, model.version, model.digest),
            inputs=model.inputs,
            outputs=model.outputs,
            scores=model.scores,
            parameters=model.parameters,
            artifact=model.artifact,
            accuracy=self.accuracy,
        )
        if before is not None and before.tap is not None:
            tap.go_on_from(before.tap)
        with self._lock:
            tap.follow(self.policy)
            self._taps.add(tap)
        model.tap = tap
        self._loop.call_soon_threadsafe(self._switch)

    def adopt(self, config: Config) -> None:
        policy = config.capture
        with self._lock:
            same, self.policy = policy == self.policy, policy
            for tap in self._taps:
                tap.follow(policy)
        # Also where nothing changed but the revision: replicas that share the ring go by the newest.
        self._writer.configure(config.namespace, config.job, policy, config.revision)
        if not same:
            self.learner.follow(policy)
            log.info("capture", extra={"redaction": NAME_OF[policy.redaction if policy else Redaction.NONE]})
        self._switch()

    def _switch(self) -> None:
        with self._lock:
            watching = any(not tap.idle for tap in self._taps)
        if watching:
            self.learner.start()
        self._engine.learning = self if watching else None

    def stop(self) -> None:
        self._engine.learning = None
        self.learner.stop()
        self._writer.stop()

    # -- what the engine tells ------------------------------------------------------------------------------------

    def answered(self, call: Call) -> None:
        """Of every answered call. Few of them are looked at for drift; all of them if anything may be kept."""
        tap = call.model.tap
        if tap is None:
            return
        tap.left -= 1
        sampled = tap.left < 0 or call.finished_ns >= tap.due_ns
        if not sampled and not tap.everything:
            return
        if call.answered_by:
            return  # another model's answer
        if sampled:
            tap.left = tap.stride - 1
            tap.due_ns = call.finished_ns + _LOOK_NS
        self._hand(tap, call, sampled)

    def failed(self, call: Call, failure: ProtocolError) -> None:
        """Of a call without an answer: only what the model itself failed at is worth learning from."""
        tap = call.model.tap
        if tap is None or not tap.everything or failure.status in _OVERLOAD or not call.finished_ns:
            return
        self._hand(tap, call, False, failure)

    def _hand(self, tap: Tap, call: Call, sampled: bool, failure: ProtocolError | None = None) -> None:
        needs_inputs = sampled or (self.policy is not None and self.policy.redaction >= Redaction.FEATURES)
        feeds = call.feeds if needs_inputs else {}
        size = _size(feeds.values()) + _size(call.tensors)
        self.learner.hand(
            Seen(
                tap,
                call.id,
                call.rows,
                (call.finished_ns - call.start_ns) / 1e9,
                feeds,
                call.names,
                call.tensors,
                sampled and failure is None,
                size,
                200 if failure is None else failure.status,
                "" if failure is None else failure.text,
            )
        )

    # -- feedback -------------------------------------------------------------------------------------------------

    def feedback(self, request: Request, reply: Reply) -> bool:
        """Whether the request was one; then it is answered, perhaps later. ProtocolError for one that makes no sense."""
        match request.path.split("/"):
            case ["", "v2", "models", model, "feedback"]:
                version = ""
            case ["", "v2", "models", model, "versions", version, "feedback"] if version:
                pass
            case _:
                return False
        if request.method != b"POST":
            raise not_allowed("feedback takes POST", b"POST")
        if request.refused is not None:
            raise request.refused
        live = [one for one, _state in self._models() if one.name == model]
        if not live:
            raise ProtocolError(404, f"Request for unknown model: '{model:.300}' is not found")
        if self.policy is None or self.policy.redaction is Redaction.NONE:
            raise ProtocolError(501, "feedback is off: nothing is kept of answers that it could be joined to")
        tap = live[0].tap
        told = feedback.parse(request.body, tap.labels if tap else {}, text=self.policy.redaction >= Redaction.RAW)

        def answer(outcome: str) -> None:
            """In another thread."""
            self._loop.call_soon_threadsafe(self._outcome, reply, outcome)

        self.learner.ask(Asked(model, version, told, answer))
        return True

    @staticmethod
    def _outcome(reply: Reply, outcome: str) -> None:
        status = feedback.STATUS[outcome]
        document: dict[str, object] = {"outcome": outcome}
        if status == 404:
            document["error"] = "no answer with this id is known, and a label alone is not kept"
        elif status == 503:
            document["error"] = "labels cannot be written now"
        reply(Answer(status, orjson.dumps(document)))

    # -- what there is to tell ------------------------------------------------------------------------------------

    def drifts(self) -> Iterator[tuple[tuple[str, str, str], Drift]]:
        """Of the versions that serve."""
        for model, state in self._models():
            monitor = model.tap.monitor if model.tap is not None else None
            if state == "Serving" and monitor is not None:
                for one in monitor.state():
                    yield (model.name, model.version, model.digest), one

    # -- GET /edgeward/v1/capture ---------------------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        policy, stats = self.policy, self.stats
        document: dict[str, object] = {
            "redaction": NAME_OF[policy.redaction] if policy is not None else NAME_OF[Redaction.NONE],
            "off": stats.off,
            "bytes": stats.bytes,
            "maxBytes": policy.max_bytes if policy is not None else 0,
            "records": stats.records,
            "labels": stats.labels,
            "picked": dict(stats.picked),
            "kept": stats.kept,
            "evicted": stats.evicted,
            "expired": stats.expired,
            "dropped": dict(stats.dropped),
            "failures": dict(stats.failures),
            "resets": stats.resets,
            "sketches": stats.sketches,
            "feedback": dict(self.accuracy.outcomes),
            "models": [self._model(model) for model, state in self._models() if state == "Serving"],
        }
        return document

    def _model(self, model: Model) -> dict[str, object]:
        version = (model.name, model.version, model.digest)
        document: dict[str, object] = {"name": model.name, "version": model.version, "digest": model.digest}
        rows = self.accuracy.rows.get(version)
        if rows is not None:
            document["accuracy"] = {result.lower(): count for result, count in rows.items()}
        monitor = model.tap.monitor if model.tap is not None else None
        if monitor is not None:
            document["drift"] = [
                {
                    "of": one.of,
                    "name": one.name,
                    "reference": one.reference,
                    "rows": one.rows,
                    "nan": one.nan,
                    "infinite": one.infinite,
                    **({} if one.score is None else {"psi": round(one.score.psi, 4), "ks": round(one.score.ks, 4)}),
                }
                for one in monitor.state()
            ]
        return document


def _size(arrays: Iterable[Array] | Sequence[Array]) -> int:
    total = 0
    for array in arrays:
        total += array.nbytes
        if array.dtype.kind == "O":
            total += sum(map(len, array.ravel().tolist()))
    return total
