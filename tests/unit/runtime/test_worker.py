from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeward_runtime.call import Call
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.tensors import TensorSpec
from edgeward_runtime.worker import Worker, run_error

WAIT = 5  # seconds, for what has to come


class Fake:
    """y = 2x for rows of two numbers; a row of -1 makes its run fail. The first run lasts until it is let go."""

    name, version = "m", "1"

    def __init__(self, *, batch_rows: int = 4, keeps_rows: bool = True) -> None:
        self.batch_rows, self.batch_fixed, self.batch_off, self.row_ns = batch_rows, True, "", 0.0
        self.alone_ns, self.inline_rows, self.chain = 0.0, 0, None
        self.inputs = {"x": TensorSpec("x", "FP32", (-1, 2))}
        self.outputs = {name: TensorSpec(name, "FP32", (-1, 2)) for name in ("y", "z")}
        self.keeps_rows = keeps_rows
        self.begun, self.go = threading.Event(), threading.Event()
        self.runs: list[tuple[int, list[str]]] = []
        self.threads: set[str] = set()

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        x = feeds["x"]
        self.runs.append((len(x), list(names)))
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.go.wait(WAIT)
        if (x == -1).any():
            raise type("InvalidArgument", (Exception,), {})("no such row")
        kept = x if self.keeps_rows else x[:1]
        return [kept * {"y": 2, "z": 3}[name] for name in names]


def call(model: Fake, *values: float, names: tuple[str, ...] = ("y",), **more: Any) -> Call:
    made = Call(model)  # type: ignore[arg-type]
    made.feeds = {"x": np.array([[value, value] for value in values], np.float32)}
    made.names, made.rows = list(names), len(values)
    for key, value in more.items():
        setattr(made, key, value)
    return made


class Bench:
    """A worker whose thread is held in the run of `first`, so that what is submitted next waits together."""

    def __init__(self, model: Fake, *, limit: int = 16, limit_bytes: int = 2**40) -> None:
        self.model = model
        self.worker = Worker(loop=asyncio.get_running_loop(), limit=limit, limit_bytes=limit_bytes)
        self.worker.start()
        self.finished: list[Call] = []
        self._more = asyncio.Event()

    async def busy(self) -> None:
        self.submit(call(self.model, 0))
        await asyncio.to_thread(self.model.begun.wait, WAIT)

    def submit(self, one: Call) -> None:
        self.worker.submit(one, self._done)

    def _done(self, one: Call) -> None:
        self.finished.append(one)
        self._more.set()

    async def some(self) -> None:
        await asyncio.wait_for(self._more.wait(), WAIT)

    async def end(self, count: int) -> list[Call]:
        self.model.go.set()
        while len(self.finished) < count:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), WAIT)
        self.worker.stop()
        assert self.worker.pending == 0 == self.worker.backlog.calls == self.worker.backlog.bytes
        assert self.worker.backlog.wait_ns(5) == 0
        return self.finished


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def values(one: Call) -> list[list[float]]:
    return [tensor[:, 0].tolist() for tensor in one.tensors]


def test_order_bound_and_thread() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=1), limit=3)
        await bench.busy()
        for value in (1, 2):
            bench.submit(call(bench.model, value))
        late = call(bench.model, 9)
        with pytest.raises(ProtocolError, match="queue is full") as caught:
            bench.submit(late)
        assert (caught.value.status, late.dropped) == (503, "full")
        assert caught.value.extra == b"retry-after: 1\r\n"
        finished = await bench.end(3)
        assert [values(one) for one in finished] == [[[0]], [[2]], [[4]]]
        assert [one.together for one in finished] == [1, 1, 1]
        assert bench.model.threads == {"edgeward-infer"}

    run(main)


def test_what_waits_runs_together_and_each_gets_its_own() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=4))
        await bench.busy()
        bench.submit(call(bench.model, 1))
        bench.submit(call(bench.model, 2, 3, names=("z", "y")))
        bench.submit(call(bench.model, 4, names=("y", "z")))
        bench.submit(call(bench.model, 5))
        finished = await bench.end(5)
        assert bench.model.runs == [(1, ["y"]), (4, ["y", "z"]), (1, ["y"])], "rows are counted, not requests"
        assert [values(one) for one in finished[1:]] == [[[2]], [[6, 9], [4, 6]], [[8], [12]], [[10]]]
        assert [one.together for one in finished] == [1, 4, 0, 0, 1], "a run is counted once"
        shared = {id(one.tensors[-1].base) for one in finished[1:2]}
        assert shared == {id(finished[1].tensors[-1].base)} and finished[1].tensors[0].flags.c_contiguous

    run(main)


def test_one_bad_request_does_not_fail_its_neighbours() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=8))
        await bench.busy()
        for value in (1, -1, 2):
            bench.submit(call(bench.model, value))
        finished = await bench.end(4)
        assert [one.error and one.error.status for one in finished] == [None, None, 400, None]
        assert [values(one) for one in finished if not one.error] == [[[0]], [[2]], [[4]]]
        assert [rows for rows, _names in bench.model.runs] == [1, 3, 1, 1, 1]

    run(main)


def test_a_model_that_does_not_keep_rows_batches_no_more() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=8, keeps_rows=False))
        await bench.busy()
        for value in (1, 2):
            bench.submit(call(bench.model, value))
        finished = await bench.end(3)
        assert [values(one) for one in finished] == [[[0]], [[2]], [[4]]]
        assert (bench.model.batch_rows, bench.model.batch_off) == (1, "RowsNotKept")

    run(main)


def test_rows_that_do_not_fit_together_run_apart() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=4))
        await bench.busy()
        bench.submit(call(bench.model, 1, 1, 1))
        bench.submit(call(bench.model, 2, 2))
        bench.submit(call(bench.model, 3, 3, 3, 3, 3))
        other = Fake()
        other.go.set()
        bench.submit(call(other, 4))
        await bench.end(5)
        assert [rows for rows, _names in bench.model.runs] == [1, 3, 2, 5]
        assert [rows for rows, _names in other.runs] == [1]

    run(main)


def test_expired_and_deserted_work_is_dropped_before_it_runs() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=8))
        await bench.busy()
        alive, gone = SimpleNamespace(gone=False), SimpleNamespace(gone=False)
        bench.submit(call(bench.model, 1, client=alive))
        bench.submit(call(bench.model, 2, client=gone))
        late = call(bench.model, 3, deadline_ns=2**62)
        bench.submit(late)
        bench.submit(call(bench.model, 4, deadline_ns=2**62))
        # The thread is in its run: this is what it finds afterwards.
        gone.gone = True
        late.deadline_ns = 1
        finished = await bench.end(5)
        outcome = {one.feeds["x"][0, 0]: (one.dropped, one.error and one.error.text) for one in finished}
        assert outcome[2] == ("gone", "the client closed the connection")
        assert outcome[3] == ("expired", "Request timeout expired")
        assert outcome[1] == outcome[4] == ("", None)
        assert [rows for rows, _names in bench.model.runs] == [1, 2]

    run(main)


def test_the_worker_lets_go_of_what_it_ran() -> None:
    async def main() -> None:
        bench = Bench(Fake())
        bench.model.go.set()
        one = call(bench.model, 1, deadline_ns=2**62)
        released = weakref.ref(one.feeds["x"])
        bench.submit(one)
        await bench.some()
        bench.finished.clear()
        del one
        # The thread is back at its queue once it took the next call.
        begun = bench.model.begun
        begun.clear()
        bench.submit(call(bench.model, 2))
        await asyncio.to_thread(begun.wait, WAIT)
        assert released() is None
        await bench.end(1)

    run(main)


def test_an_answer_that_fails_does_not_keep_the_others_from_theirs() -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=8))
        await bench.busy()

        def broken(_call: Call) -> None:
            raise RuntimeError("observer")

        bench.worker.submit(call(bench.model, 1), broken)
        bench.submit(call(bench.model, 2))
        assert [values(one) for one in await bench.end(2)] == [[[0]], [[4]]]

    run(main)


def test_an_idle_worker_waits_for_nothing() -> None:
    """Whatever the size of batches, a call that comes alone is taken from the queue without a timer."""

    async def main() -> None:
        bench = Bench(Fake(batch_rows=32))
        timeouts: list[object] = []
        inner = bench.worker._queue

        class Watched:
            put, empty = inner.put, inner.empty

            def get(self, *arguments: object, **named: object) -> object:
                timeouts.extend((*arguments, *named.values()))
                return queue.SimpleQueue.get(inner)

        bench.worker._queue = Watched()  # type: ignore[assignment]
        bench.model.go.set()
        bench.submit(call(bench.model, 1))
        await bench.end(1)
        assert not timeouts

    run(main)


def test_whose_fault_an_error_is() -> None:
    assert run_error(type("InvalidArgument", (Exception,), {})("bad index")).status == 400
    assert run_error(KeyError("x")).status == 500
    assert run_error(MemoryError()).status == 413
    text = "Non-zero status code returned while running Expand node. bad allocation"
    assert run_error(type("RuntimeException", (Exception,), {})(text)).status == 413
