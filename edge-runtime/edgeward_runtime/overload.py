"""How much may wait, and for how long it will: what is refused at the door, and what it is told.

Everything here runs in the event loop's thread. The cost of a call is its rows times what a row took lately, batches
counted as what they are, so that the sum over those that wait is the time the queue needs to drain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import INLINE_NS
from edgeward_runtime.preprocess import record

if TYPE_CHECKING:
    from edgeward_runtime.call import Call

SLOW_NS = 2_000_000  # of a run in the event loop: its time follows from what is asked, or the machine is busy
CLASSES = 5  # 1 is the most urgent
_LESS_ROOM = 0.1  # of the queue, for each class below the most urgent: they leave room for the others
_SHARE_OF_NEW = 0.125  # weight of a new measurement of what a row takes
_LONGEST_RETRY = 60
_POINTER_BYTES = 8
_STRING_BYTES = 64  # what a short Python string takes beside its pointer


class Backlog:
    """`calls` and `bytes` wait or run. A limit of bytes counts tensors as they are in memory: from JSON they are several
    times their text, which the front's own limit counts."""

    def __init__(self, *, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.calls = 0
        self.bytes = 0
        self._cost_ns = [0] * (CLASSES + 1)  # by class

    def wait_ns(self, priority: int) -> int:
        """What a new call of this class waits, if no more urgent one comes after it."""
        return sum(self._cost_ns[: priority + 1])

    def retry_after(self) -> bytes:
        """Header line with the seconds until what waits now is done."""
        seconds = math.ceil(sum(self._cost_ns) / 1e9)
        return b"retry-after: %d\r\n" % min(max(seconds, 1), _LONGEST_RETRY)

    def enter(self, call: Call, now: int) -> None:
        """Counts the call in, or ProtocolError 503 with call.dropped saying why."""
        room = self.limit
        if call.priority > 1:
            room = max(1, int(room * (1 - _LESS_ROOM * (call.priority - 1))))
        if self.calls >= room:
            call.dropped = "full"
            raise ProtocolError(503, f"the queue is full ({room} requests), try again later", self.retry_after())
        size = _size(call)
        if self.bytes + size > self.limit_bytes and self.calls:
            call.dropped = "full"
            raise ProtocolError(503, "the memory for waiting requests is in use, try again later", self.retry_after())
        if call.deadline_ns:
            wait = self.wait_ns(call.priority)
            if now + wait > call.deadline_ns:
                call.dropped = "refused"
                left = max(0, call.deadline_ns - now)
                text = f"the wait is about {wait / 1e6:.0f} ms, the request's timeout leaves {left / 1e6:.0f} ms"
                raise ProtocolError(503, text, self.retry_after())
        call.cost_ns = cost_ns(call)
        call.size = size
        self.calls += 1
        self.bytes += size
        self._cost_ns[call.priority] += call.cost_ns

    def leave(self, call: Call) -> None:
        self.calls -= 1
        self.bytes -= call.size
        self._cost_ns[call.priority] -= call.cost_ns


def cost_ns(call: Call) -> int:
    """What it will take by what was measured lately, its preparing too."""
    return int(call.rows * call.model.row_ns + record.prepare_ns(call))


def measured(calls: list[Call]) -> None:
    """Learns from a run of these calls what a row of their version takes, and so whether it may run in the event loop."""
    first = calls[0]
    rows = sum([call.rows for call in calls])
    if rows:
        model = first.model
        each = (first.finished_ns - first.started_ns) / rows
        model.row_ns += (each - model.row_ns) * _SHARE_OF_NEW if model.row_ns else each
        if len(calls) == 1 and model.batch_fixed:
            model.alone_ns += (each - model.alone_ns) * _SHARE_OF_NEW if model.alone_ns else each
            model.inline_rows = int(INLINE_NS / max(model.alone_ns, 1.0))


def expired() -> ProtocolError:
    """In Triton's words and with its status: its clients know both."""
    return ProtocolError(503, "Request timeout expired")


def gone() -> ProtocolError:
    """Nobody reads it; 499 is what nginx made usual for it in counts."""
    return ProtocolError(499, "the client closed the connection")


def _size(call: Call) -> int:
    if record.carried(call):
        return record.memory(call)
    total = 0
    for tensor in call.feeds.values():
        total += tensor.nbytes if tensor.dtype.kind != "O" else tensor.size * (_POINTER_BYTES + _STRING_BYTES)
    return total
