"""An answer reaches its client whatever fails beside it, and its model is let go exactly once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from edgeward_runtime.app import App, Parts
from edgeward_runtime.call import Call
from edgeward_runtime.engine import Engine
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.messages import Answer, Request
from edgeward_runtime.metrics import MetricsPage, RuntimeCollector, ServerStats
from edgeward_runtime.mirror import Mirror
from edgeward_runtime.model import Model
from edgeward_runtime.preprocess import record
from edgeward_runtime.registry import Registry
from edgeward_runtime.route import Target
from edgeward_runtime.rpc.service import RpcFront
from edgeward_runtime.tensors import TensorSpec


def boom(*_args: Any, **_more: Any) -> None:
    raise RuntimeError("can't start new thread")


def model(version: str = "1") -> Model:
    found = Model(
        name="m",
        version=version,
        digest="d",
        session=SimpleNamespace(run=lambda _names, feeds, _options=None: [feeds["x"]]),
        inputs={"x": TensorSpec("x", "FP32", (-1, 2))},
        outputs={"y": TensorSpec("y", "FP32", (-1, 2))},
    )
    found.inline_rows = 99
    return found


class Worker:
    """Runs at once; as the real one, it answers only if nothing is raised before."""

    pending = 0

    def submit(self, call: Call, done: Any) -> None:
        call.tensors = call.model.run(call.names, call.feeds)
        try:
            done(call)
        except Exception as error:
            self.raised = error


class Desk:
    def __init__(self, *, inline: bool, observers: tuple[Any, ...] = ()) -> None:
        self.model = model()
        self.model.inline_rows = 99 if inline else 0
        self.engine = Engine(worker=Worker(), observers=observers)  # type: ignore[arg-type]
        registry = Registry()
        registry.flip(self.model)
        self.app = App(Parts(registry=registry, engine=self.engine, stats=ServerStats(), pages=None))  # type: ignore[arg-type]
        self.answers: list[Answer] = []

    def ask(self) -> list[int]:
        request = Request()
        request.method, request.path = b"POST", "/v2/models/m/infer"
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
        request.body = orjson.dumps({"inputs": [tensor]})
        self.app.handle(request, self.answers.append)
        assert self.model.inflight == 0, "its model is free"
        return [answer.status for answer in self.answers]


@pytest.mark.parametrize("inline", [True, False])
def test_an_observer_that_fails_takes_nobodys_answer(inline: bool) -> None:
    told: list[Call] = []
    desk = Desk(inline=inline, observers=(boom, told.append))
    desk.engine.learning = SimpleNamespace(answered=boom, failed=boom)  # type: ignore[assignment]
    assert desk.ask() == [200] and len(told) == 1
    assert (desk.model.stats.successes, desk.model.stats.failures) == (1, {})
    collector = RuntimeCollector(
        models=lambda: [(desk.model, "Serving")], server=ServerStats(), pending=lambda: 0, limit=1
    )
    page = MetricsPage(collector).render().decode()
    assert 'edgeward_observer_failures_total{model="m",version="1"} 2.0' in page


@pytest.mark.parametrize("inline", [True, False])
def test_the_answer_is_out_before_anybody_is_told_of_it(inline: bool) -> None:
    seen: list[int] = []
    desk = Desk(inline=inline, observers=(lambda _call: seen.append(len(desk.answers)),))
    desk.ask()
    assert seen == [1]


@pytest.mark.parametrize("inline", [True, False])
def test_counting_that_fails_is_an_answer_too(inline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(inline=inline)

    def full(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("edgeward_runtime.metrics.ModelStats.success", full)
    assert desk.ask() == [413]


def test_a_record_that_cannot_be_remembered_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(inline=True)

    def full(_call: Call) -> None:
        raise MemoryError

    monkeypatch.setattr(record, "finished", full)
    call = desk.engine.begin(desk.model)
    call.record_bytes = 9
    desk.engine.finish(call)
    desk.engine.tell(call)
    assert (desk.model.inflight, desk.model.stats.observer_failures) == (0, 1)


def test_a_call_that_fails_stays_the_failure_that_it_was() -> None:
    desk = Desk(inline=True)
    desk.engine.learning = SimpleNamespace(failed=boom)  # type: ignore[assignment]
    call = desk.engine.begin(desk.model)
    assert desk.engine.failed(call, ProtocolError(400, "x")).status == 400
    assert desk.engine.failed(call, ProtocolError(500, "again")).status == 500
    assert desk.model.inflight == 0


def test_grpc_answers_first_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    replies: list[object] = []
    desk = Desk(inline=True, observers=(boom, lambda _call: told.append(len(replies))))
    monkeypatch.setattr("edgeward_runtime.rpc.convert.respond", lambda **_parts: "answer")
    front: Any = SimpleNamespace(_engine=desk.engine)
    RpcFront._done(front, None, replies.append, desk.engine.begin(desk.model))  # type: ignore[arg-type]
    assert replies == ["answer"] and told == [1] and desk.model.inflight == 0


def test_a_copy_without_a_thread_is_dropped_and_the_next_one_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, old, new = Mirror(), model("1"), model("2")
    old.mirrors = (Target(new, 100),)
    call = Call(old)
    call.feeds, call.names = {"x": np.ones((1, 2), np.float32)}, ["y"]
    call.tensors = [call.feeds["x"]]
    started: list[int] = []
    monkeypatch.setattr(mirror._thread, "start", boom)
    mirror(call)
    assert new.copies.dropped == 1 and mirror._queue.empty()
    monkeypatch.setattr(mirror._thread, "start", lambda: started.append(1))
    mirror(call)
    mirror(call)
    assert started == [1] and mirror._queue.qsize() == 2 and new.copies.dropped == 1
