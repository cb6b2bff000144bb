"""One inference on its way through the server: what a front made of a request, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import Array


class Client(Protocol):
    """Who waits for the answer."""

    gone: bool


class Call:
    """Made by a front (app.py, grpc), run by the engine, read by its observers. After the run `tensors` (in the order
    of `names`) or `error` is set. Times are perf_counter_ns. The tensors may be views of a batch's, which lives as long
    as they do: who keeps one for long copies it."""

    __slots__ = (
        "answered_by",
        "client",
        "cost_ns",
        "deadline_ns",
        "done",
        "dropped",
        "error",
        "feeds",
        "finished_ns",
        "forwarded",
        "id",
        "model",
        "names",
        "notes",
        "priority",
        "queued_ns",
        "rows",
        "size",
        "start_ns",
        "started_ns",
        "tensors",
        "together",
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
        self.client: Client | None = None  # asked before a run, which is saved if nobody waits for it any more
        self.priority = 1  # 1 is the job's own class, each more one less urgent, see Engine.urgency
        self.deadline_ns = 0  # after which it is not begun any more; 0 = none
        self.dropped = ""  # why it never ran: full, refused, expired, gone
        self.together = 1  # rows of its run; 0 for all but the first of those that ran together
        self.forwarded = False  # by another server, which must not get it back
        self.answered_by = ""  # "MODEL/VERSION" of another server whose answer this is; "" = our own
        self.notes: dict[str, object] | None = None  # what the answer's parameters tell the client
        self.cost_ns = self.size = 0  # as the backlog counts it
        self.queued_ns = self.started_ns = self.finished_ns = 0


Done = Callable[[Call], None]
# Told of every answered call, in the event loop's thread, after the answer was handed to the front: capture, drift,
# mirror. What takes longer than a few microseconds it hands to a thread of its own.
Observer = Callable[[Call], None]
