"""One inference on its way through the server: what a front made of a request, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import Array


class Call:
    """Made by a front (app.py, grpc), run by the engine, read by its observers. After the run `tensors` (in the order
    of `names`) or `error` is set. Times are perf_counter_ns."""

    __slots__ = (
        "done",
        "error",
        "feeds",
        "finished_ns",
        "id",
        "model",
        "names",
        "queued_ns",
        "rows",
        "start_ns",
        "started_ns",
        "tensors",
    )

    def __init__(self, model: Model) -> None:
        self.start_ns = perf_counter_ns()
        self.model = model
        self.id = ""  # the client's or one of ours; the answer and everything that is recorded names it
        self.feeds: dict[str, Array] = {}
        self.names: list[str] = []  # outputs asked for
        self.rows = 1
        self.tensors: list[Array] = []
        self.error: ProtocolError | None = None
        self.done: Done | None = None
        self.queued_ns = self.started_ns = self.finished_ns = 0


Done = Callable[[Call], None]
# Told of every answered call, in the event loop's thread, after the answer was handed to the front: capture, drift,
# mirror. What takes longer than a few microseconds it hands to a thread of its own.
Observer = Callable[[Call], None]
