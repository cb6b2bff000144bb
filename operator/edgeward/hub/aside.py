"""Long computations beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SWITCH = 0.0005
"""seconds after which the interpreter takes the turn from a thread that computes. Python's own 5 ms are what the loop would
wait each time that it comes back from a socket, several times a request: some 30 requests a second while a plan is made."""


async def aside(work: Callable[[], T]) -> T:
    """What `work` returns or raises, computed in a thread of its own, while the loop goes on: the interpreter switches
    between the two every few milliseconds, so that nothing on the loop waits longer than that.

    Not the loop's executor: that is waited for at the end of the process, and a leader that has lost its Lease in the
    middle of a long plan must end at once. What is cancelled runs to its end, and nobody looks at the result.
    """
    sys.setswitchinterval(SWITCH)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(tell: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(lambda: None if future.done() else tell())

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            told = error
            settle(lambda: future.set_exception(told))
        else:
            settle(lambda: future.set_result(result))

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await future
