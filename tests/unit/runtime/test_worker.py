from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from edgeward_runtime.call import Call
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.preprocess import chain
from edgeward_runtime.tensors import TensorSpec
from edgeward_runtime.waiting import Waiting
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


# -- records ----------------------------------------------------------------------------------------------------------


class Chained(Fake):
    """With preprocessing: the record "3\\n" is a row of 3s. `prepared` and `runs` say in which order."""

    def __init__(self, *, batch_rows: int = 4) -> None:
        super().__init__(batch_rows=batch_rows)
        text = {
            "record": {"kind": "Table", "channels": ["a", "b"]},
            "output": {"input": "x", "layout": "Rows"},
        }
        self.chain = chain.load(orjson.dumps(text), self.inputs)  # type: ignore[assignment]
        self.order: list[str] = []
        self.meanwhile: Callable[[str], None] = lambda _record: None
        inner = self.chain.prepare  # type: ignore[attr-defined]

        def prepare(body: bytes, **more: Any) -> Any:
            said = body.decode().partition(",")[0]
            self.order.append(f"prepare {said}")
            self.meanwhile(said)
            return inner(body, **more)

        self.chain.prepare = prepare  # type: ignore[attr-defined]

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        self.order += [f"run {value:.0f}" for value in feeds["x"][:, 0]]
        return super().run(names, feeds)


def sent(model: Fake, value: int, **more: Any) -> Call:
    return call(model, value, feeds={"record": np.frombuffer(b"%d,%d\n" % (value, value), np.uint8)}, rows=1, **more)


def test_a_record_runs_before_the_next_is_prepared() -> None:
    async def main() -> None:
        bench = Bench(Chained())
        await bench.busy()
        for value in (1, 2, 3):
            bench.submit(sent(bench.model, value))
        finished = await bench.end(4)
        assert [values(one) for one in finished] == [[[0]], [[2]], [[4]], [[6]]]
        assert bench.model.order == ["run 0", "prepare 1", "run 1", "prepare 2", "run 2", "prepare 3", "run 3"]

    run(main)


def test_records_that_are_cheap_beside_the_run_are_run_together() -> None:
    async def main() -> None:
        bench = Bench(Chained(batch_rows=2))
        bench.model.row_ns, bench.model.chain.prepare_ns = 1e12, 1.0
        await bench.busy()
        for value in (1, 2, 3):
            bench.submit(sent(bench.model, value))
        finished = await bench.end(4)
        assert [values(one) for one in finished] == [[[0]], [[2]], [[4]], [[6]]]
        assert [rows for rows, _names in bench.model.runs] == [1, 2, 1]

    run(main)


def test_what_is_more_urgent_passes_records_by() -> None:
    async def main() -> None:
        bench = Bench(Chained())
        await bench.busy()
        for value in (1, 2):
            bench.submit(sent(bench.model, value, priority=2))
        bench.model.meanwhile = lambda said: bench.worker._queue.put(urgent) if said == "1" else None
        urgent = call(bench.model, 9, done=bench._done)
        bench.worker.pending += 1
        bench.worker.backlog.enter(urgent, 0)
        await bench.end(4)
        assert bench.model.order == ["run 0", "prepare 1", "run 9", "run 1", "prepare 2", "run 2"]

    run(main)


def test_a_record_that_nobody_waits_for_is_not_prepared() -> None:
    async def main() -> None:
        bench = Bench(Chained())
        bench.model.row_ns, bench.model.chain.prepare_ns = 1e12, 1.0
        await bench.busy()
        leaves = SimpleNamespace(gone=False)
        late = sent(bench.model, 2)
        for one in (sent(bench.model, 1), late, sent(bench.model, 3, client=leaves), sent(bench.model, 4)):
            bench.submit(one)

        def meanwhile(said: str) -> None:
            if said == "1":  # all four were taken for one run
                leaves.gone, late.deadline_ns = True, 1

        bench.model.meanwhile = meanwhile
        finished = await bench.end(5)
        assert [one.dropped for one in finished].count("gone") == 1 and late.dropped == "expired"
        assert [said for said in bench.model.order if "prepare" in said] == ["prepare 1", "prepare 4"]

    run(main)


def test_preparing_is_part_of_what_a_record_costs() -> None:
    async def main() -> None:
        bench = Bench(Chained())
        bench.model.row_ns, bench.model.chain.prepare_ns = 5.0, 1000.0
        await bench.busy()
        before = bench.worker.backlog.wait_ns(1)
        bench.submit(sent(bench.model, 1))
        assert bench.worker.backlog.wait_ns(1) - before == 1005
        await bench.end(2)
        assert bench.model.chain.prepare_ns != 1000.0, "it is measured"

    run(main)


def test_a_record_without_memory_for_it_is_told_and_the_next_one_answered() -> None:
    async def main() -> None:
        told: list[int] = []
        bench = Bench(Chained())
        bench.worker._out_of_memory = lambda: told.append(1)
        await bench.busy()

        def meanwhile(said: str) -> None:
            if said == "1":
                raise MemoryError

        bench.model.meanwhile = meanwhile
        for value in (1, 2):
            bench.submit(sent(bench.model, value))
        finished = await bench.end(3)
        assert [one.error and one.error.status for one in finished] == [None, 413, None] and told == [1]

    run(main)


# -- the thread -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "take"])
def test_the_thread_outlives_what_must_not_happen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=1))
        await bench.busy()
        real = getattr(Waiting, name)

        def broken(*args: Any) -> Any:
            monkeypatch.setattr(Waiting, name, real)
            raise KeyError("a bug")

        monkeypatch.setattr(Waiting, name, broken)
        for value in (1, 2):
            bench.submit(call(bench.model, value))
        bench.model.go.set()
        while len(bench.finished) < 3:
            bench._more.clear()
            await bench.some()
        bench.submit(call(bench.model, 3))
        finished = await bench.end(4)
        assert sorted(one.error.status for one in finished if one.error) == ([500] if name == "add" else [500, 500])
        assert values(finished[-1]) == [[6]] and bench.worker.alive

    run(main)


def test_a_run_that_fails_in_an_unheard_of_way_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench = Bench(Fake(batch_rows=8))
        await bench.busy()
        told: list[int] = []

        def out_of_memory() -> None:
            told.append(1)
            raise OSError("no")

        bench.worker._out_of_memory = out_of_memory
        monkeypatch.setattr("edgeward_runtime.batch.run", lambda _calls: (_ for _ in ()).throw(MemoryError()))
        bench.model.run = lambda *_args: (_ for _ in ()).throw(MemoryError())  # type: ignore[method-assign]
        for value in (1, 2):
            bench.submit(call(bench.model, value))
        finished = await bench.end(3)
        assert len(finished) == 3 and told == [1]

    run(main)


def test_a_thread_that_ended_is_told_apart_from_one_that_was_stopped() -> None:
    async def main() -> None:
        bench = Bench(Fake())
        assert bench.worker.alive
        await bench.end(0)
        assert bench.worker.alive, "it was stopped"
        dead = Worker(loop=asyncio.get_running_loop(), limit=1)
        assert dead.alive, "it was not started yet"
        dead._thread = threading.Thread(target=lambda: None)
        dead.start()
        dead._thread.join()
        assert not dead.alive

    run(main)
