"""What waits for the worker, and what of it runs next. Pure; only the worker's thread touches it.

The order is by class, then by age, and age counts: a call is treated as if it had come one second later for every class
below the first, so it is passed by more urgent ones for some seconds at most and never starves.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from itertools import count

from edgeward_runtime import batch
from edgeward_runtime.call import Call

AGEING_NS = 1_000_000_000  # a class less urgent weighs as much as having come so much later

_Item = tuple[int, int, Call]


class Waiting:
    def __init__(self) -> None:
        self._groups: dict[Hashable, list[_Item]] = {}
        self._deadlines: list[_Item] = []
        self._number = count()  # two calls of the same nanosecond are not compared
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, call: Call) -> None:
        number = next(self._number)
        key = batch.group(call)
        if key is None:
            key = number
        order = call.queued_ns + (call.priority - 1) * AGEING_NS
        heapq.heappush(self._groups.setdefault(key, []), (order, number, call))
        self._size += 1
        if call.deadline_ns:
            heapq.heappush(self._deadlines, (call.deadline_ns, number, call))

    def take(self, now: int) -> tuple[list[Call], list[Call]]:
        """What runs now, together, and what never will: expired (`call.dropped` says so), or its client is gone. Both may
        be empty."""
        dropped = self._expired(now)
        groups = self._groups
        while groups:
            key = min(groups, key=lambda one: groups[one][0]) if len(groups) > 1 else next(iter(groups))
            heap = groups[key]
            found: list[Call] = []
            rows, most = 0, 0
            while heap:
                call = heap[0][2]
                if call.dropped:  # expired before; its place in the order is left to be found
                    heapq.heappop(heap)
                    continue
                if lapsed(call, now):
                    dropped.append(call)
                elif found and rows + call.rows > most:
                    break
                else:
                    found.append(call)
                    rows += call.rows
                    most = batch.most(call)
                    call.started_ns = now
                heapq.heappop(heap)
                self._size -= 1
            if not heap:
                del groups[key]
            if found:
                break
        else:
            found = []
        self._forget()
        return found, dropped

    def clear(self) -> list[Call]:
        """Everything that waits; nothing does after it."""
        calls = [item[2] for heap in self._groups.values() for item in heap if not item[2].dropped]
        self._groups.clear()
        self._deadlines.clear()
        self._size = 0
        return calls

    def _forget(self) -> None:
        """Lets go of calls that need no look any more: they would keep their tensors and their model alive."""
        if not self._size:
            self._groups.clear()
            self._deadlines.clear()
        elif len(self._deadlines) > 2 * self._size + 16:
            self._deadlines = [item for item in self._deadlines if not item[2].started_ns and not item[2].dropped]
            heapq.heapify(self._deadlines)

    def _expired(self, now: int) -> list[Call]:
        found: list[Call] = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            call = heapq.heappop(deadlines)[2]
            if not call.started_ns and not call.dropped:
                call.dropped = "expired"
                found.append(call)
                self._size -= 1
        return found


def lapsed(call: Call, now: int) -> bool:
    """Whether nobody wants the call's run any more; `call.dropped` says why then."""
    if call.client is not None and call.client.gone:
        call.dropped = "gone"
    elif call.deadline_ns and call.deadline_ns <= now:
        call.dropped = "expired"
    return bool(call.dropped)
