"""What is kept of a request in each mode, which requests are picked, and a writer whose disk fails."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.capture import feedback, reader
from edgeward_runtime.capture import writer as writer_module
from edgeward_runtime.capture.feedback import RIGHT, UNCOMPARABLE, WRONG, Recent, Remembered, Told, judge
from edgeward_runtime.capture.policy import Policy, Redaction, Rule, Sampler
from edgeward_runtime.capture.record import MOST_SCORES, Taken, decode, encode
from edgeward_runtime.capture.ring import Row
from edgeward_runtime.capture.stats import CaptureStats
from edgeward_runtime.capture.tap import Tap, Thresholds, thresholds
from edgeward_runtime.capture.writer import Label, Writer
from edgeward_runtime.errors import ProtocolError, Refusal
from edgeward_runtime.tensors import TensorSpec

MIB = 2**20


def taken(feeds: dict[str, Any], answers: dict[str, Any], *, rows: int = 1, **more: Any) -> Taken:
    def specs(arrays: dict[str, Any]) -> dict[str, TensorSpec]:
        kinds = {"f4": "FP32", "f8": "FP64", "i4": "INT32", "i8": "INT64", "u1": "UINT8", "b1": "BOOL"}
        return {
            name: TensorSpec(name=name, datatype=kinds.get(array.dtype.str[1:], "BYTES"), shape=array.shape)
            for name, array in arrays.items()
        }

    known: dict[str, Any] = {"id": "a", "model": "m", "version": "1", "digest": "d", "at_ms": 1, "seconds": 0.5}
    return Taken(**known, rows=rows, inputs=specs(feeds), outputs=specs(answers), feeds=feeds, answers=answers, **more)


# -- records ----------------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]), hnp.array_shapes(min_side=0)),
    st.lists(st.text(), max_size=4),
)
def test_raw_is_read_as_it_was(array, texts):
    strings = np.empty(len(texts), object)
    strings[:] = texts
    found = decode(encode(taken({"x": array, "s": strings}, {"y": array}), Redaction.RAW))
    assert np.array_equal(found.tensors["inputs/x"], array, equal_nan=array.dtype.kind == "f")
    assert found.tensors["outputs/y"].dtype == array.dtype
    assert found.tensors["inputs/s"].tolist() == [text.encode() for text in texts]


def test_a_mode_that_keeps_no_request_makes_no_record():
    for mode in (Redaction.NONE, Redaction.SKETCH):
        with pytest.raises(ValueError):
            encode(taken({}, {}), mode)


@pytest.mark.parametrize("blob", [b"", b"\x05\x00\x00\x00{}", b"\x02\x00\x00\x00[]", b"\xff\xff\xff\xff"])
def test_bytes_that_are_no_record(blob):
    with pytest.raises(ValueError):
        decode(blob)


SECRET = np.arange(100, 140, dtype=np.float32).reshape(1, 40)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (np.array([[0.1, 0.9]], np.float32), True),
        (np.array([3]), True),
        (np.array(["cat"], object), False),
        (np.zeros((1, 8), np.int64), False),  # token numbers are text
        (np.zeros((1, 1), np.uint8), False),
        (np.zeros((1, MOST_SCORES + 1), np.float32), False),
        (SECRET, False),
        (SECRET.reshape(4, 10), False),
        (SECRET.astype(np.float64), False),
        (np.concatenate([np.zeros((1, 3)), SECRET], axis=1), False),
        (SECRET[:, 10:30], False),
    ],
)
def test_features_are_what_the_model_thinks_and_not_what_came_in(answer, kept):
    found = decode(encode(taken({"x": SECRET}, {"y": answer}), Redaction.FEATURES))
    assert list(found.tensors) == (["outputs/y"] if kept else [])
    assert found.header["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [1, 40], "nonfinite": 0, "mean": pytest.approx(119.5),
         "deviation": pytest.approx(float(SECRET.std()))}
    ]  # fmt: skip


@pytest.mark.parametrize("feed", [np.array([[42.5]], np.float32), np.array(["text"], object), np.full((1, 15), 7.0)])
def test_statistics_of_few_values_would_be_the_values(feed):
    (found,) = decode(encode(taken({"x": feed}, {}), Redaction.FEATURES)).header["inputs"]
    assert set(found) == {"name", "datatype", "shape"}


def test_an_error_is_told_in_full_under_raw_only():
    one = taken({}, {}, status=500, error="Invalid value 'SECRET'")
    assert b"SECRET" in encode(one, Redaction.RAW)
    assert b"SECRET" not in encode(one, Redaction.FEATURES)
    assert decode(encode(one, Redaction.FEATURES)).header["status"] == 500


# -- rules ------------------------------------------------------------------------------------------------------------


def test_every_nth_and_the_most_important_rule():
    sampler = Sampler([Rule("Always", 3, 0), Rule("LowConfidence", 2, 5), Rule("Error", 1, 9)])
    picked = [sampler.pick(("Always", *(["LowConfidence"] if low else []))) for low in (0, 0, 0, 1, 1, 1, 0)]
    assert [rule and (rule.when, rule.priority) for rule in picked] == [
        ("Always", 0), None, None, ("LowConfidence", 5), None, ("LowConfidence", 5), ("Always", 0),
    ]  # fmt: skip
    assert sampler.pick(("Error",)) == Rule("Error", 1, 9)
    assert Sampler([]).pick(("Always",)) is None


# -- what a release may say -------------------------------------------------------------------------------------------


def test_thresholds_of_a_release():
    assert thresholds({}) == Thresholds(0.6, 0.25)
    assert thresholds({"capture": {"lowConfidence": "0.9", "drift": 1}}) == Thresholds(0.9, 1.0)


@pytest.mark.parametrize(
    "asked", [1, {"lowConfidence": 2}, {"lowConfidence": "x"}, {"drift": -1}, {"drift": True}, {"drift": float("nan")}]
)
def test_thresholds_that_make_no_sense_refuse_the_version(asked):
    with pytest.raises(Refusal) as caught:
        thresholds({"capture": asked})
    assert caught.value.reason == "ParametersInvalid" and caught.value.permanent


def test_labels_of_the_artifact(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n\ncat\n")
    artifact = Artifact(digest="d", root=tmp_path, model=tmp_path / "m", labels=tmp_path / "labels.txt")
    tap = Tap(
        version=("m", "1", "d"),
        inputs={},
        outputs={},
        scores=None,
        parameters={},
        artifact=artifact,
        accuracy=feedback.Accuracy(),
    )
    assert tap.labels == {"cat": 0, "dog": 1}


def tap_with(parameters: dict, artifact: Artifact | None = None) -> Tap:
    return Tap(
        version=("m", "1", "d"),
        inputs={"x": TensorSpec(name="x", datatype="FP32", shape=(-1, 2))},
        outputs={},
        scores=None,
        parameters=parameters,
        artifact=artifact,
        accuracy=feedback.Accuracy(),
    )


def test_labels_of_the_release_take_the_place_of_the_artifacts(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    artifact = Artifact(digest="d", root=tmp_path, model=tmp_path / "m", labels=tmp_path / "labels.txt")
    assert tap_with({"labels": ["stop", "yield", "stop"]}, artifact).labels == {"stop": 0, "yield": 1}
    assert tap_with({"labels": []}, artifact).labels == {}


@pytest.mark.parametrize("labels", [None, "stop", {"0": "stop"}, ["stop", 1], [""], ["x" * 1025], ["x"] * 65537])
def test_labels_that_make_no_sense(labels):
    with pytest.raises(Refusal) as caught:
        tap_with({"labels": labels})
    assert caught.value.reason == "ParametersInvalid" and caught.value.message.startswith("labels must be")


def test_rules_of_the_release_take_the_place_of_the_jobs_and_keep_nothing_where_the_job_keeps_nothing():
    policy = Policy(rules=(Rule("Always"),))
    tap = tap_with({"capture": {"rules": [{"when": "Error"}]}})
    tap.follow(policy)
    assert tap.sampler.pick(("Always",)) is None and tap.sampler.pick(("Error",)) is not None
    tap.follow(None)
    assert not tap.everything and tap.sampler.pick(("Error",)) is None
    plain = tap_with({})
    plain.follow(policy)
    assert plain.sampler.pick(("Always",)) is not None


def test_what_drift_has_seen_stays_under_other_parameters():
    before, after = tap_with({}), tap_with({"capture": {"drift": 0.5}})
    before.follow(Policy())
    after.go_on_from(before)
    after.follow(Policy())
    assert before.monitor is not None and after.monitor is before.monitor


# -- feedback ---------------------------------------------------------------------------------------------------------


def test_labels_are_judged_row_by_row():
    assert judge([1, 2, -1, 4], [1, 3, 3, None]) == [RIGHT, WRONG, UNCOMPARABLE]
    assert judge([1], [1, 2]) == [UNCOMPARABLE] * 2
    assert judge([1, 1], ["cat", 1.0]) == [UNCOMPARABLE] * 2
    assert judge([], [3]) == [UNCOMPARABLE]


def test_a_name_is_its_class_and_other_text_is_raws_alone():
    names = {"cat": 4}
    assert feedback.parse(b'{"id": "a", "label": "cat"}', names, text=False) == Told("a", (4,))
    assert feedback.parse(b'{"id": "a", "labels": ["dog", null]}', names, text=True) == Told("a", ("dog", None))
    with pytest.raises(ProtocolError) as caught:
        feedback.parse(b'{"id": "a", "label": "dog"}', names, text=False)
    assert caught.value.status == 400 and "dog" not in caught.value.text


@given(st.binary(max_size=200))
def test_any_bytes_are_feedback_or_refused(body):
    try:
        feedback.parse(body, {}, text=True)
    except ProtocolError as error:
        assert error.status == 400


def test_only_the_last_answers_are_remembered():
    recent = Recent(8)
    for number in range(20):
        recent.answered(f"{number}", Remembered(("m", "1", "d"), (number,)))
    assert recent.find("11") is None
    assert recent.find("12") is not None
    for number in range(100, 120):
        recent.early(Told(f"{number}", (1,)))
    assert recent.answered("100", Remembered(("m", "1", "d"), (1,))) is None
    assert recent.answered("119", Remembered(("m", "1", "d"), (1,))) == (1,)


# -- the writer -------------------------------------------------------------------------------------------------------


def row(request_id: str, size: int = 100) -> Row:
    feeds = {"x": np.zeros(size, np.uint8)}
    return Row(request_id, 1000, 0, Redaction.RAW, encode(taken(feeds, {}), Redaction.RAW))


class Written:
    """A writer with its thread; `settle` returns when all that was put before has been worked on."""

    def __init__(self, root: Path) -> None:
        self.stats = CaptureStats()
        self.clock = 1000.0
        self.writer = Writer(
            root=root, host="h", stats=self.stats, labelled=lambda *_: None, wall=lambda: 1.0, clock=lambda: self.clock
        )

    def settle(self) -> tuple[bytes | None, bytes | None] | None:
        answer: list[Any] = []
        done = threading.Event()

        def told(found: Any) -> None:
            answer.append(found)
            done.set()

        assert self.writer.label(Label("settle", b"[1]", 1000, told))
        assert done.wait(20)
        return answer[0]  # type: ignore[no-any-return]


@pytest.fixture
def written(tmp_path):
    one = Written(tmp_path)
    yield one
    one.writer.stop()


def policy(**more: Any) -> Policy:
    return Policy(**{"redaction": Redaction.RAW, "max_bytes": 4 * MIB, "ttl_seconds": 3600, **more})


def test_rows_reach_the_ring(written, tmp_path):
    written.writer.configure("shop", "reader", policy(), 1)
    for number in range(10):
        assert written.writer.put(row(f"{number}"))
    assert written.settle() == (None, None)
    assert written.stats.kept == 10
    assert len(list(reader.records(tmp_path / "shop" / "reader"))) == 10


def test_the_queue_is_bounded(written, monkeypatch):
    """The thread is not started yet: nobody takes anything out."""
    monkeypatch.setattr(writer_module, "MOST_QUEUED", 5)
    assert [written.writer.put(row("a")) for _ in range(7)] == [True] * 5 + [False] * 2
    monkeypatch.setattr(writer_module, "MOST_QUEUED", 100)
    monkeypatch.setattr(writer_module, "MOST_QUEUED_BYTES", 3000)
    assert not written.writer.put(row("a", 3000))
    assert written.stats.dropped == {"QueueFull": 3}


def test_a_record_that_is_too_large_is_dropped_alone(written, tmp_path):
    written.writer.configure("shop", "reader", policy(), 1)
    for one in (row("a"), row("large", MIB), row("b")):
        written.writer.put(one)
    written.settle()
    assert (written.stats.kept, written.stats.dropped) == (2, {"TooLarge": 1})


def test_too_few_bytes_for_a_ring_are_none(written, tmp_path):
    written.writer.configure("shop", "reader", policy(max_bytes=1000), 1)
    written.writer.put(row("a"))
    assert written.settle() is None
    assert (written.stats.off, written.stats.dropped) == ("MaxBytesTooSmall", {"MaxBytesTooSmall": 1})
    assert not list(tmp_path.rglob("ring.db"))


def failing(code: int) -> Any:
    def fail(*_arguments: Any, **_keywords: Any) -> None:
        error = sqlite3.OperationalError("as the disk says")
        error.sqlite_errorcode = code
        raise error

    return fail


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_FULL, "DiskFull"),
        (sqlite3.SQLITE_READONLY, "Unwritable"),
        (sqlite3.SQLITE_IOERR | 3 << 8, "Unwritable"),
        (sqlite3.SQLITE_CANTOPEN, "Unwritable"),
    ],
)
def test_a_disk_that_fails_switches_it_off_for_a_while(written, monkeypatch, code, reason):
    written.writer.configure("shop", "reader", policy(), 1)
    written.settle()
    with monkeypatch.context() as broken:
        broken.setattr(writer_module.Ring, "add", failing(code))
        written.writer.put(row("a"))
        written.settle()
    assert written.stats.off == reason and written.stats.failures == {reason: 1}
    written.writer.put(row("b"))
    written.settle()
    assert written.stats.kept == 0  # the disk is well again, but it is not asked yet
    written.clock += 61
    written.writer.put(row("c"))
    written.settle()
    assert (written.stats.kept, written.stats.off) == (1, "")
    assert written.stats.dropped == {"NotWritten": 1, reason: 1}


def test_another_writers_lock_drops_a_batch_and_no_more(written, monkeypatch):
    written.writer.configure("shop", "reader", policy(), 1)
    with monkeypatch.context() as broken:
        broken.setattr(writer_module.Ring, "add", failing(sqlite3.SQLITE_BUSY))
        written.writer.put(row("a"))
        written.settle()
    written.writer.put(row("b"))
    written.settle()
    assert (written.stats.kept, written.stats.off, written.stats.failures) == (1, "", {})


def test_a_ring_that_is_damaged_while_in_use_is_begun_anew(written, monkeypatch, tmp_path):
    written.writer.configure("shop", "reader", policy(), 1)
    written.writer.put(row("a"))
    written.settle()
    with monkeypatch.context() as broken:
        broken.setattr(writer_module.Ring, "add", failing(sqlite3.SQLITE_CORRUPT))
        written.writer.put(row("b"))
        written.settle()
    written.writer.put(row("c"))
    written.settle()
    assert (written.stats.resets, written.stats.off) == (1, "")
    assert len(list(reader.records(tmp_path / "shop" / "reader"))) == 1


def test_without_capture_what_was_kept_goes(written, tmp_path):
    written.writer.configure("shop", "reader", policy(), 1)
    written.writer.put(row("a"))
    written.settle()
    written.writer.configure("shop", "reader", None, 2)
    assert written.settle() is None
    assert not list(tmp_path.rglob("ring.db*"))
