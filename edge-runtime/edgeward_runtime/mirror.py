"""Copies of live requests for a version that does not answer them yet, and how far its answers agree.

An observer of the engine: the answer is given to the connection when it is called. The runs are made one at a time in a
thread of the lowest priority that rests four times as long as it ran, so that a copy neither delays nor fails an answer;
what finds the short queue full is dropped and counted. Answers are compared and forgotten.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from edgeward_runtime.agreement import agreement
from edgeward_runtime.call import Call
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import Array

_QUEUE = 4  # copies that wait
_MOST_BYTES = 16 * 2**20  # of the inputs of one copy: they stay in memory until it ran
_REST = 4.0  # times the run
_LONGEST_REST = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class _Copy:
    model: Model
    names: list[str]
    feeds: dict[str, Array]
    answer: list[Array]


class Mirror:
    def __init__(self, *, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._queue: queue.Queue[_Copy | None] = queue.Queue(_QUEUE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeward-mirror", daemon=True)
        self._started = False

    def stop(self, seconds: float = 1.0) -> bool:
        """Drops what waits, and waits for the copy that runs; False if it still does then."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):  # then it is not asleep
            self._queue.put_nowait(None)
        if self._started:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def __call__(self, call: Call) -> None:
        """In the loop's thread, for every answered call."""
        for target in call.model.mirrors:
            if not target.takes_next():
                continue
            copies = target.model.copies
            size = sum(feed.nbytes for feed in call.feeds.values())
            if size > _MOST_BYTES or self._queue.full() or not comparable(call, target.model):
                copies.dropped += 1
                continue
            if not self._started:
                try:
                    self._thread.start()
                except RuntimeError:  # the system gives no further thread now; the next copy tries again
                    copies.dropped += 1
                    continue
                self._started = True
            self._queue.put_nowait(_Copy(target.model, list(call.names), call.feeds, call.tensors))

    def _run(self) -> None:
        # Of this thread only: Linux keeps the priority by thread. Sessions' own threads are not made here.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while True:
            copy = self._queue.get()
            if copy is None or self._stopping.is_set():
                return
            start = self._clock()
            run(copy.model, copy.names, copy.feeds, copy.answer)
            # Else this thread would keep the model and the tensors alive until the next copy comes.
            del copy
            self._stopping.wait(min(_LONGEST_REST, _REST * (self._clock() - start)))


def comparable(call: Call, model: Model) -> bool:
    """Not an answer from elsewhere, nor tensors that another preprocessing made."""
    if call.answered_by or call.error is not None:
        return False
    chain, other = call.model.chain, model.chain
    return call.prepared is None or (chain is not None and other is not None and chain.spec == other.spec)


def run(model: Model, names: list[str], feeds: dict[str, Array], answer: Sequence[Array]) -> None:
    session = model.session
    if session is None:  # given up meanwhile
        return
    try:
        classes = names.index(model.scores.output) if model.scores and model.scores.output in names else None
        share = agreement(answer, model.run(names, feeds), classes=classes)
    except Exception as error:
        if model.session is not None:
            model.copies.raised(error)
        return
    model.copies.compared(share)
