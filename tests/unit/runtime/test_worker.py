from __future__ import annotations

import asyncio
import threading

import pytest

from edgeward_runtime.call import Call
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.worker import Worker, run_error


class Fake:
    """A model whose run waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: Exception | None = None
        self.threads: set[str] = set()

    def run(self, names, feeds):
        self.go.wait(5)
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        return [feeds["x"]]


def call(model: Fake, number: int) -> Call:
    made = Call(model)
    made.feeds, made.names = {"x": number}, ["y"]
    return made


def test_order_bound_and_thread():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker, model = Worker(loop=loop, limit=3), Fake()
        worker.start()
        finished, done = [], asyncio.Event()

        def on_done(call: Call) -> None:
            finished.append(call.tensors[0])
            if len(finished) == 3:
                done.set()

        for number in range(3):
            worker.submit(call(model, number), on_done)
        with pytest.raises(ProtocolError) as caught:
            worker.submit(call(model, 9), on_done)
        assert caught.value.status == 503
        model.go.set()
        await asyncio.wait_for(done.wait(), 5)
        assert finished == [0, 1, 2] and worker.pending == 0
        assert model.threads == {"edgeward-infer"}
        worker.stop()

    asyncio.run(main())


def test_whose_fault_an_error_is():
    assert run_error(type("InvalidArgument", (Exception,), {})("bad index")).status == 400
    assert run_error(MemoryError()).status == 500
