"""The forwarder with a client that answers when it is told to: own code only, no network."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeward_runtime.call import Call
from edgeward_runtime.model import Model
from edgeward_runtime.offload.client import Exchange, Refused, Unavailable
from edgeward_runtime.offload.forward import Forwarder, Policy
from edgeward_runtime.offload.steering import Budget, Steering
from edgeward_runtime.tensors import TensorSpec

X = {"x": TensorSpec("x", "FP32", (-1, 2))}
PROBABILITIES = {"probabilities": TensorSpec("probabilities", "FP32", (-1, 3))}
SURE, UNSURE = [0.98, 0.01, 0.01], [0.4, 0.35, 0.25]
BETTER = [0.05, 0.9, 0.05]


class Elsewhere:
    """Stands for the other server: each exchange takes the next of `answers`, or waits until there is one."""

    def __init__(self) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()
        self.asked: list[dict[str, Any]] = []

    def exchange(self, body: bytes, json_length: int, **more: Any) -> Exchange:
        self.asked.append({"body": body, **more})
        answer = self.answers.get(timeout=5)
        if isinstance(answer, Exception):
            raise answer
        tensors = [np.float32([answer])]
        return Exchange(
            tensors=tensors,
            version="large/2",
            sent=len(body),
            received=100,
            pack=0,
            send=0.001,
            execution=0.001,
            unpack=0,
        )


class Scene:
    def __init__(self, loop: asyncio.AbstractEventLoop, policy: Policy, budget: Budget) -> None:
        self.elsewhere = Elsewhere()
        self.now = 100.0
        self.forwarder = Forwarder(
            client=self.elsewhere,  # type: ignore[arg-type]
            policy=policy,
            steering=Steering(budget, now=self.now),
            loop=loop,
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )
        self.done: list[Call] = []
        self.came = asyncio.Event()

    def end(self, call: Call) -> None:
        self.done.append(call)
        self.came.set()

    def call(self, answer: list[float], **more: Any) -> Call:
        model = Model(name="m", version="1", digest="sha256:0", session=None, inputs=X, outputs=PROBABILITIES)
        made = Call(model)
        made.start_ns = round(self.now * 1e9)
        made.id, made.names = "id", ["probabilities"]
        made.feeds, made.tensors = {"x": np.float32([[1, 2]])}, [np.float32([answer])]
        for key, value in more.items():
            setattr(made, key, value)
        return made

    def warm(self) -> None:
        """So many sure answers that the threshold is known, and the budget is full."""
        for _ in range(40):
            self.now += 1.0
            self.forwarder.answered(self.call(SURE), self.end)
        self.done.clear()
        self.came.clear()

    async def ended(self) -> Call:
        await asyncio.wait_for(self.came.wait(), 5)
        self.came.clear()
        return self.done[-1]

    async def settled(self) -> None:
        """After the other server's answer was dealt with."""
        while self.forwarder._in_flight:
            await asyncio.sleep(0.001)


def played(scenario: Callable[[Scene], Any], policy: Policy | None = None, budget: Budget | None = None) -> Scene:
    async def main() -> Scene:
        scene = Scene(asyncio.get_running_loop(), policy or Policy(hold=2.0), budget or Budget(share=0.2))
        await scenario(scene)
        scene.forwarder.retire()
        return scene

    return asyncio.run(main())


def test_a_hard_answer_becomes_the_better_one():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.elsewhere.answers.put(BETTER)
        scene.forwarder.answered(scene.call(UNSURE), scene.end)
        assert not scene.done, "it waits for the other answer"
        call = await scene.ended()
        np.testing.assert_allclose(call.tensors[0], [BETTER], rtol=1e-6)
        assert call.answered_by == "large/2" and call.notes == {"offloaded_to": "large/2"}

    stats = played(scenario).forwarder.stats
    assert stats.outcomes == {("Hard", "Answered"): 1}
    assert (stats.compared, stats.agreed) == (1, 0) and stats.sent_bytes > 0


def test_a_sure_answer_is_given_at_once():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.forwarder.answered(scene.call(SURE), scene.end)
        assert len(scene.done) == 1

    scene = played(scenario)
    assert not scene.elsewhere.asked and scene.done[0].answered_by == ""


def test_the_edges_answer_is_given_when_it_is_due_and_the_late_one_only_counted():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.forwarder.answered(scene.call(UNSURE), scene.end)
        call = await scene.ended()
        np.testing.assert_allclose(call.tensors[0], [UNSURE], rtol=1e-6)
        scene.elsewhere.answers.put(UNSURE)
        await scene.settled()
        assert len(scene.done) == 1 and call.answered_by == ""

    stats = played(scenario, Policy(latency=0.05)).forwarder.stats
    assert stats.outcomes == {("Hard", "Late"): 1}
    assert (stats.compared, stats.agreed) == (1, 1)


def test_a_failing_server_costs_the_edges_answer_nothing_and_is_left_alone():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        for _ in range(3):
            scene.elsewhere.answers.put(Unavailable("refused"))
            scene.forwarder.answered(scene.call(UNSURE), scene.end)
            call = await scene.ended()
            np.testing.assert_allclose(call.tensors[0], [UNSURE], rtol=1e-6)
            for _ in range(10):
                scene.forwarder.answered(scene.call(SURE), scene.end)
            scene.came.clear()
        scene.forwarder.answered(scene.call(UNSURE), scene.end)
        assert len(scene.elsewhere.asked) == 3

    stats = played(scenario).forwarder.stats
    assert stats.outcomes == {("Hard", "Failed"): 3, ("Hard", "RouteDown"): 1}


def test_what_the_budget_does_not_allow_stays_here():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        for _ in range(30):
            scene.elsewhere.answers.put(BETTER)
            scene.forwarder.answered(scene.call(UNSURE), scene.end)
            await scene.settled()

    scene = played(scenario, budget=Budget(share=0.2, bytes_per_hour=3600.0))
    assert len(scene.elsewhere.asked) == 1
    outcomes = scene.forwarder.stats.outcomes
    assert outcomes["Hard", "Answered"] == 1 and outcomes.get(("Hard", "OverBudget"), 0) > 0


def test_a_way_that_is_too_slow_for_the_bound_is_not_taken():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        for _ in range(4):
            scene.forwarder.route.took("identity", 8, sent=8, pack=0, send=0.9, execution=0.1, unpack=0)
            scene.forwarder.route.took("gzip", 8, sent=8, pack=0, send=0.9, execution=0.1, unpack=0)
        scene.forwarder.answered(scene.call(UNSURE), scene.end)
        assert len(scene.done) == 1

    assert played(scenario, Policy(latency=0.5)).forwarder.stats.outcomes == {("Hard", "TooSlow"): 1}


@pytest.mark.parametrize("more", [{"forwarded": True}, {"error": ValueError("x")}, {"names": []}])
def test_what_never_goes(more: dict[str, Any]):
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.forwarder.answered(scene.call(UNSURE, **more), scene.end)
        assert len(scene.done) == 1

    assert not played(scenario).elsewhere.asked


def test_a_request_whose_wait_is_too_long_is_answered_elsewhere():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.elsewhere.answers.put(BETTER)
        taken = scene.forwarder.spills(scene.call([]), 1.0, scene.end, lambda: pytest.fail("it was answered"))
        assert taken
        assert (await scene.ended()).answered_by == "large/2"

    stats = played(scenario, Policy(spill=True, latency=0.5)).forwarder.stats
    assert stats.outcomes == {("Spill", "Answered"): 1}


def test_a_spill_that_fails_goes_back_into_the_queue():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.elsewhere.answers.put(Unavailable("down"))
        assert scene.forwarder.spills(scene.call([]), 1.0, scene.end, scene.came.set)
        await asyncio.wait_for(scene.came.wait(), 5)

    scene = played(scenario, Policy(spill=True, latency=0.5))
    assert scene.forwarder.stats.outcomes == {("Spill", "Failed"): 1} and not scene.done


@pytest.mark.parametrize(
    ("policy", "wait"),
    [(Policy(spill=False, latency=0.5), 9.0), (Policy(spill=True, latency=0.5), 0.4)],
    ids=["not asked for", "in time here"],
)
def test_what_does_not_spill(policy: Policy, wait: float):
    async def scenario(scene: Scene) -> None:
        assert not scene.forwarder.spills(scene.call([]), wait, scene.end, lambda: None)

    assert not played(scenario, policy).elsewhere.asked


def test_while_nothing_is_loaded_the_other_server_answers_whatever_the_budget_is():
    async def scenario(scene: Scene) -> None:
        scene.elsewhere.answers.put(BETTER)
        assert scene.forwarder.fills(scene.call([]), scene.end)
        assert (await scene.ended()).error is None
        scene.elsewhere.answers.put(Unavailable("down"))
        assert scene.forwarder.fills(scene.call([]), scene.end)
        failure = (await scene.ended()).error
        assert failure is not None and failure.status == 503

    scene = played(scenario, budget=Budget(share=0.0, bytes_per_hour=0.0))
    assert scene.forwarder.stats.outcomes == {("Gap", "Answered"): 1, ("Gap", "Failed"): 1}


def test_a_slow_link_does_not_let_more_go_than_the_budget_allows():
    """What is on its way counts already."""

    async def scenario(scene: Scene) -> None:
        scene.warm()
        for name in ("identity", "gzip"):
            for _ in range(3):
                scene.forwarder.route.took(name, 8, sent=8, pack=0, send=0.01, execution=0.01, unpack=0)
        for _ in range(30):
            scene.forwarder.answered(scene.call(UNSURE), scene.end)
        assert scene.forwarder._in_flight <= 8
        for _ in range(30):
            scene.elsewhere.answers.put(BETTER)
        await scene.settled()

    scene = played(scenario, Policy(hold=30.0), Budget(share=0.1))
    assert len(scene.elsewhere.asked) <= 0.1 * 70


def test_a_near_duplicate_has_nothing_to_send():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.forwarder.answered(scene.call(UNSURE, feeds={}), scene.end)
        assert len(scene.done) == 1

    assert not played(scenario).elsewhere.asked


def test_a_request_that_the_other_server_will_not_have_does_not_close_the_way():
    async def scenario(scene: Scene) -> None:
        for _ in range(5):
            scene.elsewhere.answers.put(Refused(400, "input 'x': too long"))
            assert scene.forwarder.fills(scene.call([]), scene.end)
            failure = (await scene.ended()).error
            assert failure is not None and (failure.status, failure.text) == (400, "input 'x': too long")
        assert scene.forwarder.route.open(scene.now)

    assert played(scenario).forwarder.stats.outcomes == {("Gap", "Refused"): 5}


def test_a_spilled_call_is_taken_back_when_its_answer_is_due():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        assert scene.forwarder.spills(scene.call([]), 1.0, scene.end, scene.came.set)
        await asyncio.wait_for(scene.came.wait(), 5)
        scene.elsewhere.answers.put(BETTER)
        await scene.settled()

    scene = played(scenario, Policy(spill=True, latency=0.05))
    assert scene.forwarder.stats.outcomes == {("Spill", "Late"): 1} and not scene.done


def test_an_answer_whose_hardness_cannot_be_computed_goes_out():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.forwarder.answered(scene.call(UNSURE, tensors=[object()]), scene.end)
        assert len(scene.done) == 1

    assert not played(scenario).elsewhere.asked


def test_without_a_thread_to_send_it_the_edges_answer_is_given_once(monkeypatch: pytest.MonkeyPatch):
    async def scenario(scene: Scene) -> None:
        scene.warm()
        monkeypatch.setattr(scene.forwarder._threads, "run", refuse)
        scene.forwarder.answered(scene.call(UNSURE), scene.end)
        assert len(scene.done) == 1 and scene.forwarder._in_flight == 0

    def refuse(_work: object) -> None:
        raise RuntimeError("can't start new thread")

    assert played(scenario).forwarder.stats.outcomes == {("Hard", "Failed"): 1}


def test_calls_that_waited_while_offloading_was_switched_off_are_answered():
    async def scenario(scene: Scene) -> None:
        scene.warm()
        scene.forwarder.retire()
        scene.forwarder.answered(scene.call(UNSURE), scene.end)
        assert len(scene.done) == 1
        assert not scene.forwarder.fills(scene.call([]), scene.end)

    assert not played(scenario).elsewhere.asked


@pytest.mark.parametrize(
    ("criterion", "hard", "easy"),
    [
        ("Confidence", [0.4, 0.3, 0.3], [0.8, 0.1, 0.1]),
        ("Margin", [0.5, 0.5, 0.0], [0.4, 0.2, 0.4 - 0.2 + 0.2]),
        ("Entropy", [0.34, 0.33, 0.33], [0.5, 0.5, 0.0]),
    ],
)
def test_what_is_hard_hangs_on_the_criterion(criterion: str, hard: list[float], easy: list[float]):
    async def scenario(scene: Scene) -> None:
        hardness = scene.forwarder._hardness
        assert hardness(scene.call(hard)) >= hardness(scene.call(easy))  # type: ignore[operator]
        assert hardness(scene.call(hard)) > hardness(scene.call(SURE))  # type: ignore[operator]
        assert hardness(scene.call([5.0, 1.0, 1.0])) is None, "no probabilities"

    played(scenario, Policy(criterion=criterion))
