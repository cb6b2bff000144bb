"""One inference on its way through the server: what a front made of a request, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model
from edgeward_runtime.preprocess.chain import Prepared
from edgeward_runtime.tensors import Array


class Client(Protocol):
    """Who waits for the answer."""

    gone: bool


class Call:
    """Made by a front (app.py, grpc), run by the engine, read by its observers. After the run `tensors` (in the order
    of `names`) or `error` is set. Times are perf_counter_ns. The tensors may be views of a batch's, which lives as long
    as they do: who keeps one for long copies it."""

    # Defaults stand here, once, and not in each call: most of them are never another.
    pinned: bool = False  # the client named the version: a canary takes none of these
    id: str = ""  # the client's or one of ours; the answer and everything that is recorded names it
    rows: int = 1
    error: ProtocolError | None = None
    done: Done | None = None
    ended: bool = False  # it holds its model no more
    client: Client | None = None  # asked before a run, which is saved if nobody waits for it any more
    priority: int = 1  # 1 is the job's own class, each more one less urgent, see Engine.urgency
    deadline_ns: int = 0  # after which it is not begun any more; 0 = none
    dropped: str = ""  # why it never ran: full, refused, expired, gone
    together: int = 1  # rows of its run; 0 for all but the first of those that ran together
    forwarded: bool = False  # by another server, which must not get it back
    answered_by: str = ""  # "MODEL/VERSION" of another server whose answer this is; "" = our own
    source: str = ""  # who sends records; near duplicates are told among those of one source
    record_bytes: int = 0  # of a record as it came, before preprocessing; 0 = the request had tensors
    prepared: Prepared | None = None  # what preprocessing made of it
    notes: dict[str, object] | None = None  # what the answer's parameters tell the client
    cost_ns = size = 0  # as the backlog counts it
    queued_ns = started_ns = finished_ns = 0

    def __init__(self, model: Model) -> None:
        self.start_ns = perf_counter_ns()
        self.model = model
        self.feeds: dict[str, Array] = {}
        self.names: list[str] = []  # outputs asked for
        self.tensors: list[Array] = []


Done = Callable[[Call], None]
# Told of every answered call, in the event loop's thread, after the answer was given to the connection: capture, drift,
# mirror. What takes longer than a few microseconds it hands to a thread of its own. What it raises is logged and counted.
Observer = Callable[[Call], None]
