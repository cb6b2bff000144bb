"""Who else sees a request: the share of a canary, copies, and whether two answers agree."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime import mirror
from edgeward_runtime.agreement import agreement
from edgeward_runtime.call import Call
from edgeward_runtime.engine import Engine
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.mirror import Mirror
from edgeward_runtime.model import Model
from edgeward_runtime.registry import Registry
from edgeward_runtime.route import Split, Target
from edgeward_runtime.tensors import TensorSpec


def model(version: str, run=lambda names, feeds: [feeds["x"]]) -> Model:
    spec = {"x": TensorSpec(name="x", datatype="FP32", shape=(-1, 2))}
    scores = {"y": TensorSpec(name="y", datatype="FP32", shape=(-1, 2))}
    found = Model(
        name="m",
        version=version,
        digest="sha256:" + version * 64,
        session=SimpleNamespace(run=lambda names, feeds, options=None: run(names, feeds)),
        inputs=spec,
        outputs=scores,
    )
    found.inline_rows = 100
    return found


# -- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_a_share_is_about_as_large_as_asked(percent):
    split = Split(model("2"), percent)
    for ids in ([f"user-{number}" for number in range(10_000)], [str(number) for number in range(10_000)]):
        taken = sum(split.takes(one) for one in ids)
        assert abs(taken / 100 - percent) < 2


@given(st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_larger_share_keeps_those_that_it_had(request_id, one, other):
    canary = model("2")
    small, large = (Split(canary, percent) for percent in sorted((one, other)))
    assert small.takes(request_id) <= large.takes(request_id)
    assert not Split(canary, 0).takes(request_id) and Split(canary, 100).takes(request_id)


def test_other_canaries_get_other_requests():
    ids = [str(number) for number in range(1000)]
    first, second = (Split(model(version), 30) for version in "23")
    assert [first.takes(one) for one in ids] != [second.takes(one) for one in ids]


@given(st.integers(0, 100))
def test_copies_are_evenly_spread(percent):
    target = Target(model("2"), percent)
    taken = [target.takes_next() for _ in range(200)]
    assert sum(taken[:100]) == sum(taken[100:]) == percent


class Nobody:
    """A worker that nothing waits for; runs at once."""

    pending = 0

    def submit(self, call: Call, done) -> None:
        call.tensors = call.model.run(call.names, call.feeds)
        done(call)


def ended(engine: Engine, call: Call) -> Call:
    done: list[Call] = []
    engine.run(call, done.append)
    assert done == [call]
    engine.finish(call)
    engine.tell(call)
    return call


def request(engine: Engine, to: Model, number: int = 0, pinned: bool = False) -> Call:
    call = engine.begin(to)
    call.id, call.pinned, call.names = f"user-{number}", pinned, ["y"]
    call.feeds = {"x": np.ones((1, 2), np.float32)}
    return call


def test_a_canary_gets_its_share_of_what_names_no_version():
    engine, stable, canary = Engine(worker=Nobody()), model("1"), model("2")
    stable.split = Split(canary, 40)
    for number in range(500):
        assert ended(engine, request(engine, stable, number)).model is (
            canary if stable.split.takes(f"user-{number}") else stable
        )
    assert stable.stats.successes + canary.stats.successes == 500 and 150 < canary.stats.successes < 250
    assert (stable.inflight, canary.inflight) == (0, 0)
    stable.split = Split(canary, 100)
    assert ended(engine, request(engine, stable, pinned=True)).model is stable


def test_a_version_that_made_room_answers_503_unless_somebody_takes_the_call():
    engine, old = Engine(worker=Nobody()), model("1")
    stand_in = old.stand_in()
    call = request(engine, stand_in)
    with pytest.raises(ProtocolError) as caught:
        engine.run(call, lambda _call: None)
    engine.failed(call, caught.value)
    assert (caught.value.status, caught.value.extra) == (503, b"retry-after: 1\r\n")
    assert stand_in.inflight == 0 and old.stats.failures == {503: 1}
    taken = []

    def gap(call: Call) -> bool:
        taken.append(call)
        return True

    engine.gap = gap
    done: list[Call] = []
    call = request(engine, stand_in)
    engine.run(call, done.append)
    assert taken == [call] and done == []
    call.tensors = [np.zeros((1, 2), np.float32)]
    call.done(call)
    assert done == [call]


def test_a_server_in_a_gap_is_ready_only_if_requests_are_taken():
    registry = Registry()
    registry.wanted = frozenset({"m"})
    old = model("1")
    registry.flip(old)
    registry.flip(old.stand_in(), remember=False)
    assert not registry.ready() and registry.missing() == ["m"]
    registry.gap_answered = lambda: True
    assert registry.ready()


def test_a_path_finds_the_canary_by_its_version():
    registry = Registry()
    registry.flip(model("1"))
    registry.set_canary(model("2"))
    assert [registry.find(["m", "versions", version]).version for version in "12"] == ["1", "2"]
    assert registry.find(["m"]).version == "1" and registry.metadata(["m"])["versions"] == ["1", "2"]
    with pytest.raises(ProtocolError):
        registry.find(["m", "versions", "3"])
    assert [(one.version, state) for one, state in registry.versions()] == [("1", "Serving"), ("2", "Canary")]


# -- copies -----------------------------------------------------------------------------------------------------------


def test_copies_are_run_and_compared():
    ran = threading.Event()

    def run(_names, feeds):
        ran.set()
        return [feeds["x"] * 2]

    stable, new = model("1"), model("2", run)
    observer = Mirror()
    engine = Engine(worker=Nobody(), observers=[observer])
    stable.mirrors = (Target(new, 100),)
    ended(engine, request(engine, stable))
    assert ran.wait(10)
    assert observer.stop(10)
    assert (new.copies.requests, new.copies.agreed, new.copies.failed) == (1, 1, 0), "the same class wins"
    assert (new.stats.successes, new.inflight) == (0, 0), "a copy is no request"


def test_copies_that_find_no_room_are_dropped_and_nobody_waits():
    held, entered = threading.Event(), threading.Event()

    def run(_names, feeds):
        entered.set()
        held.wait(10)
        return [feeds["x"]]

    stable, new = model("1"), model("2", run)
    observer = Mirror()
    engine = Engine(worker=Nobody(), observers=[observer])
    stable.mirrors = (Target(new, 100),)
    ended(engine, request(engine, stable))
    assert entered.wait(10)
    for number in range(20):
        ended(engine, request(engine, stable, number))
    assert new.copies.dropped == 20 - mirror._QUEUE and stable.stats.successes == 21
    assert not observer.stop(0), "a run cannot be interrupted"
    held.set()
    assert observer.stop(10) and new.copies.requests == 1, "those that wait are not run any more"


def test_one_that_never_ran_a_copy_has_nothing_to_end():
    assert Mirror().stop(0)


def test_a_copy_that_fails_is_counted_and_one_of_a_version_given_up_is_not():
    def run(_names, _feeds):
        raise ValueError(
            "Non-zero status code returned while running Gather node. Status Message: 4711 is out of range"
        )

    one, feeds = model("2", run), {"x": np.ones((1, 2), np.float32)}
    mirror.run(one, ["y"], feeds, [feeds["x"]])
    assert (one.copies.requests, one.copies.failed, one.copies.buckets[0]) == (1, 1, 1)
    assert "Gather" in one.copies.error and "4711" not in one.copies.error, "what it says may quote a request"
    one.release()
    mirror.run(one, ["y"], feeds, [feeds["x"]])
    assert one.copies.requests == 1


def test_what_cannot_be_compared_is_not_copied():
    call = Call(model("1"))
    assert mirror.comparable(call, model("2"))
    call.answered_by = "big/1"
    assert not mirror.comparable(call, model("2"))
    call.answered_by, call.prepared = "", SimpleNamespace()
    assert not mirror.comparable(call, model("2"))


# -- agreement --------------------------------------------------------------------------------------------------------

SCORES = np.array([[0.1, 0.9], [0.6, 0.4]], np.float32)


@pytest.mark.parametrize(
    ("old", "new", "classes", "share"),
    [
        ([SCORES], [SCORES * 1.001], None, 1.0),
        ([SCORES], [SCORES * 2], None, 0.0),
        ([SCORES], [SCORES * 2], 0, 1.0),
        ([SCORES], [SCORES[:, ::-1]], 0, 0.0),
        ([SCORES], [np.array([[0.2, 0.8], [0.3, 0.7]], np.float32)], 0, 0.5),
        ([SCORES, np.array([1, 0])], [SCORES, np.array([1, 1])], 0, 0.5),
        ([np.array(["a", "b"], object)], [np.array(["a", "c"], object)], None, 0.5),
        ([SCORES], [SCORES[:1]], 0, 0.0),
        ([np.zeros((0, 2), np.float32)], [np.zeros((0, 2), np.float32)], 0, 1.0),
        ([np.array([np.nan, 1])], [np.array([np.nan, 1])], None, 1.0),
        ([np.array(3.0)], [np.array(3.01)], None, 1.0),
        ([np.zeros((2, 0), np.float32)], [np.zeros((2, 0), np.float32)], 0, 1.0),
        ([SCORES, np.zeros(5)], [SCORES, np.zeros(5)], 0, 1.0),
        ([SCORES, np.zeros(5)], [SCORES * 9, np.zeros(5)], None, 0.0),
    ],
)
def test_agreement(old, new, classes, share):
    assert agreement(old, new, classes=classes) == share


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_an_answer_agrees_with_itself(rows, seed):
    random = np.random.default_rng(seed)
    answer = [random.standard_normal((rows, 3)).astype(np.float32), random.integers(0, 9, (rows,))]
    assert agreement(answer, answer, classes=0) == agreement(answer, answer) == 1.0
