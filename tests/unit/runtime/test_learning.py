"""What the engine is asked to tell of, what of it is handed over, and what does not fit."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.call import Call
from edgeward_runtime.capture import feedback
from edgeward_runtime.capture import learner as learner_module
from edgeward_runtime.capture.feedback import Accuracy, Told
from edgeward_runtime.capture.learner import Asked, Seen
from edgeward_runtime.capture.policy import Policy, Redaction, Rule
from edgeward_runtime.capture.stats import CaptureStats
from edgeward_runtime.config import Config
from edgeward_runtime.errors import ProtocolError, Refusal
from edgeward_runtime.learning import Learning
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import TensorSpec

REFERENCE = b'{"format": 1, "histograms": [{"of": "Input", "name": "x", "edges": [0.0], "counts": [5, 5]}]}'


class World:
    """A Learning whose threads are not started: its queue is looked into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = Mock(spec=["learning"], learning=None)
        self.loop = Mock(spec=asyncio.AbstractEventLoop)
        self.loop.call_soon_threadsafe = lambda act, *arguments: act(*arguments)
        self.models: list[Model] = []
        self.learning = Learning(
            engine=self.engine, loop=self.loop, models=lambda: [(one, "Serving") for one in self.models], root=folder
        )
        self.learning.learner.start = lambda: None  # type: ignore[method-assign]
        self.learning._writer = Mock()

    def model(self, *, reference: bytes | None = None, **parameters: object) -> Model:
        def spec(name: str) -> dict[str, TensorSpec]:
            return {name: TensorSpec(name=name, datatype="FP32", shape=(-1, 2))}

        model = Model(
            name="m", version="1", digest="d", session=None, inputs=spec("x"), outputs=spec("y"), parameters=parameters
        )
        path = None
        if reference is not None:
            path = self.folder / "reference.json"
            path.write_bytes(reference)
        model.artifact = Artifact(digest="d", root=self.folder, model=self.folder / "m.onnx", reference=path)
        self.learning.prepare(model)
        self.models.append(model)
        return model

    def adopt(self, capture: Policy | None) -> None:
        self.learning.adopt(Config(revision=1, namespace="shop", job="reader", entries=(), capture=capture))

    @property
    def handed(self) -> list[Any]:
        return [one for one in self.learning.learner._queue if isinstance(one, learner_module.Seen)]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def call(model: Model, *, at: int = 1, values: Any = ((1.0, 2.0),)) -> Call:
    one = Call(model)
    one.id, one.names = "a", ["y"]
    one.feeds = {"x": np.array(values, np.float32)}
    one.tensors = [np.array([[0.4, 0.6]], np.float32)]
    one.finished_ns = at
    return one


def test_the_engine_tells_nothing_while_there_is_nothing_to_learn(world):
    world.model()
    assert world.engine.learning is None
    world.adopt(Policy(redaction=Redaction.NONE))
    assert world.engine.learning is None
    world.adopt(Policy(redaction=Redaction.SKETCH))
    assert world.engine.learning is world.learning
    world.adopt(None)
    assert world.engine.learning is None


def test_a_reference_alone_is_enough_for_drift_and_is_looked_at_in_samples(world):
    model = world.model(reference=REFERENCE)
    assert world.engine.learning is world.learning
    stride = model.tap.stride
    for _ in range(3 * stride):
        world.learning.answered(call(model))
    assert len(world.handed) == 3 and all(one.sampled for one in world.handed)


def test_where_requests_are_few_one_is_looked_at_every_half_second(world):
    model = world.model(reference=REFERENCE)
    for tenth in range(1, 21):
        world.learning.answered(call(model, at=tenth * 100_000_000))
    assert len(world.handed) == 4


def test_all_are_handed_over_where_any_may_be_kept_and_inputs_only_where_they_may(world):
    model = world.model()
    world.adopt(Policy(redaction=Redaction.SKETCH))
    for _ in range(10):
        world.learning.answered(call(model))
    assert len(world.handed) == 10
    assert [bool(one.feeds) for one in world.handed] == [True] + [False] * 9  # the first is looked at for drift
    world.adopt(Policy(redaction=Redaction.FEATURES, rules=(Rule("Always"),)))
    world.learning.answered(call(model))
    assert world.handed[-1].feeds


def test_what_the_model_failed_at_and_not_what_it_never_saw(world):
    model = world.model()
    world.adopt(Policy(redaction=Redaction.RAW))
    for status in (400, 500, 503, 504):
        world.learning.failed(call(model), ProtocolError(status, "text"))
    never = call(model)
    never.finished_ns = 0
    world.learning.failed(never, ProtocolError(400, "not a tensor"))
    assert [one.status for one in world.handed] == [400, 500]


def test_answers_of_another_server_are_not_this_models(world):
    model = world.model()
    world.adopt(Policy(redaction=Redaction.RAW))
    other = call(model)
    other.answered_by = "large/1"
    world.learning.answered(other)
    assert world.handed == []


def test_the_hand_over_is_bounded_in_number_and_bytes(world, monkeypatch):
    model = world.model()
    world.adopt(Policy(redaction=Redaction.RAW))
    monkeypatch.setattr(learner_module, "MOST_HANDED", 6)  # the policy's own message is one
    for _ in range(8):
        world.learning.answered(call(model))
    assert len(world.handed) == 5 and world.learning.stats.dropped == {"HandOverFull": 3}
    outcomes: list[str] = []
    world.learning.learner.ask(Asked("m", "", Told("a", (1,)), outcomes.append))
    assert outcomes == [feedback.UNAVAILABLE]
    monkeypatch.setattr(learner_module, "MOST_HANDED", 100)
    monkeypatch.setattr(learner_module, "MOST_HANDED_BYTES", 1000)
    world.learning.answered(call(model, values=np.zeros((1, 500))))
    assert world.learning.stats.dropped == {"HandOverFull": 4}


def test_strings_count_with_what_they_hold(world, monkeypatch):
    monkeypatch.setattr(learner_module, "MOST_HANDED_BYTES", 1000)
    model = world.model()
    world.adopt(Policy(redaction=Redaction.RAW))
    one = call(model)
    one.feeds = {"x": np.array(["." * 2000], object)}
    world.learning.answered(one)
    assert world.handed == []


@pytest.mark.parametrize("reference", [b"{", b'{"format": 2}'])
def test_a_reference_that_makes_no_sense_refuses_the_version(world, reference):
    with pytest.raises(Refusal) as caught:
        world.model(reference=reference)
    assert caught.value.reason == "BadReference"


def test_what_is_thrown_while_learning_ends_nothing(world, monkeypatch):
    model = world.model()
    world.adopt(Policy(redaction=Redaction.FEATURES, rules=(Rule("Always"),)))
    learner = world.learning.learner
    learner.step()
    monkeypatch.setattr(learner_module, "encode", Mock(side_effect=RuntimeError("a bug")))
    world.learning.answered(call(model))
    outcomes: list[str] = []
    learner.ask(Asked("m", "", Told("a", (1,)), outcomes.append))
    learner.step()
    assert outcomes == [feedback.JOINED]


def test_what_is_queued_when_it_stops_is_looked_at(tmp_path):
    learner = learner_module.Learner(writer=Mock(), stats=CaptureStats(), accuracy=Accuracy(), requests=lambda: 0)
    seen = Seen(Mock(), "1", 1, 0.1, {}, (), (), sampled=False, size=10)
    looked, begun, told, answers = [], threading.Event(), threading.Event(), []

    def look(some):
        looked.extend(some)
        if some and not begun.is_set():
            begun.set()
            told.wait(10)

    learner._look = look
    learner._hurry.set()
    learner.start()
    thread = learner._thread
    join, thread.join = thread.join, lambda timeout: (told.set(), join(timeout))  # it has been told to stop by then
    learner.hand(seen)
    assert begun.wait(10)
    learner.hand(seen)
    learner.ask(Asked("m", "", Told("a", ()), answers.append))
    learner.stop()
    assert (len(looked), answers) == (2, [feedback.UNAVAILABLE])
    learner.ask(Asked("m", "", Told("a", ()), answers.append))
    assert len(answers) == 2, "nobody is left who would look at it"
