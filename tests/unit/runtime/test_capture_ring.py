"""The ring on disk: its bound, what goes first, what outlives a kill, what a stricter policy leaves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgeward_runtime.capture import reader
from edgeward_runtime.capture.policy import Redaction
from edgeward_runtime.capture.record import Taken, encode
from edgeward_runtime.capture.ring import FILE, SMALLEST, Ring, Row, TooBusy, footprint, sweep
from edgeward_runtime.tensors import TensorSpec

MIB = 2**20
X = {"x": TensorSpec(name="x", datatype="BYTES", shape=(-1,))}
REPOSITORY = Path(__file__).parents[3]


def ring(folder, *, max_bytes=MIB, mode=Redaction.RAW, revision=1, ttl_seconds=3600) -> Ring:
    return Ring(folder, max_bytes=max_bytes, mode=mode, revision=revision, ttl_seconds=ttl_seconds)


def body(request_id: str, text: str, mode: Redaction, size: int) -> bytes:
    taken = Taken(
        id=request_id, model="m", version="1", digest="d", at_ms=0, rows=1, seconds=0.0, inputs=X, outputs={}, answers={},
        feeds={"x": np.array([text + "." * size], object)},
    )  # fmt: skip
    return encode(taken, mode)


def row(request_id="a", *, at_ms=1000, priority=0, mode=Redaction.RAW, size=0, text="") -> Row:
    return Row(request_id, at_ms, priority, mode, body(request_id, text or request_id, mode, size))


def ids(folder) -> list[str]:
    return [record.header["id"] for record in reader.records(folder)]


def on_disk(folder) -> int:
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_what_is_added_is_read(tmp_path):
    one = ring(tmp_path)
    assert one.add([row("a"), row("b", priority=3)]).kept == 2
    found = list(reader.records(tmp_path))
    assert [(r.header["id"], r.at_ms, r.label) for r in found] == [("a", 1000, None), ("b", 1000, None)]
    assert found[0].tensors["inputs/x"].tolist() == [b"a"]
    assert [r.header["id"] for r in reader.records(tmp_path, after=found[0].key)] == ["b"]


@pytest.mark.parametrize("max_bytes", [SMALLEST, 3 * MIB // 2 + 12345])
def test_the_files_never_have_more_than_the_bound(tmp_path, max_bytes):
    """Looked at after every step of a long mix of sizes and priorities, labels, sketches and expiry among it."""
    one = ring(tmp_path, max_bytes=max_bytes)
    draw = random.Random(max_bytes)
    most = evicted = 0
    for step in range(150):
        rows, room = [], one.sizes.batch
        while True:
            size = draw.choice([10, 3000, 12000, 40000])
            new = row(f"{step}-{len(rows)}", at_ms=step, priority=draw.choice([0, 0, 1, 7]), size=size)
            room -= footprint(len(new.body))
            if room < 0:
                break
            rows.append(new)
        evicted += one.add(rows).evicted
        most = max(most, on_disk(tmp_path))
        one.label(f"{step}-0", b'["cat"]' * draw.randint(1, 40), at_ms=step)
        most = max(most, on_disk(tmp_path))
        one.sketch(model="m", digest="d", host="h", at_ms=step, body=b"[1]" * draw.randint(1, 5000))
        most = max(most, on_disk(tmp_path))
        one.settle()
        if step % 40 == 39:
            one.expire(step - 5)
        most = max(most, on_disk(tmp_path))
    assert evicted > 10
    assert max_bytes / 2 < most <= max_bytes
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_least_important_go_first_and_of_them_the_oldest(tmp_path):
    one = ring(tmp_path)
    one.add([row("high", priority=9, size=20000)])
    for index in range(60):
        one.add([row(f"low{index}", size=20000)])
    there = ids(tmp_path)
    assert there[-1] == "high"
    first = 60 - (len(there) - 1)
    assert first > 0
    assert there[:-1] == [f"low{index}" for index in range(first, 60)]


def test_nothing_goes_for_what_is_less_important(tmp_path):
    one = ring(tmp_path)
    index = 0
    while not one.add([row(f"high{index}", priority=9, size=20000)]).evicted:
        index += 1
    before = ids(tmp_path)
    added = one.add([row("low", size=30000), row("high", priority=9, size=1)])
    assert added.refused == 1 and added.kept == 1
    assert "low" not in ids(tmp_path) and "high" in ids(tmp_path)
    assert len(ids(tmp_path)) >= len(before)


def test_a_lower_bound_makes_the_file_smaller(tmp_path):
    one = ring(tmp_path, max_bytes=4 * MIB)
    for index in range(150):
        one.add([row(f"{index}", size=20000)])
        one.settle()
    one.close()
    assert on_disk(tmp_path) > 2 * MIB
    ring(tmp_path, max_bytes=MIB, revision=2)
    assert on_disk(tmp_path) <= MIB
    assert ids(tmp_path)[-1] == "149"


def test_what_is_too_old_goes_and_leaves_no_trace(tmp_path):
    one = ring(tmp_path)
    one.add([row("old", at_ms=1000, text="CANARY-old", size=5000), row("new", at_ms=5000, text="CANARY-new")])
    one.label("old", b'["CANARY-label"]', at_ms=1000)
    one.sketch(model="m", digest="d", host="h", at_ms=1000, body=b'{"CANARY-sketch": 1}')
    assert one.expire(2000) == 1
    one._checkpoint()
    text = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"CANARY-new" in text
    assert not any(word in text for word in (b"CANARY-old", b"CANARY-label", b"CANARY-sketch"))


def test_a_stricter_mode_leaves_nothing_of_a_looser_one(tmp_path):
    ring(tmp_path).add([row("a", text="CANARY")])
    ring(tmp_path, mode=Redaction.FEATURES, revision=2)
    assert not any(b"CANARY" in path.read_bytes() for path in tmp_path.iterdir())
    assert list(reader.records(tmp_path)) == []


def test_a_looser_mode_keeps_what_there_is(tmp_path):
    ring(tmp_path, mode=Redaction.FEATURES).add([row("a", mode=Redaction.FEATURES)])
    ring(tmp_path, revision=2)
    assert len(list(reader.records(tmp_path))) == 1


def test_a_replica_that_was_not_told_yet_writes_nothing_looser(tmp_path):
    late = ring(tmp_path, revision=1)
    ring(tmp_path, mode=Redaction.SKETCH, revision=2)
    assert not late.current  # the file was begun anew: the writer opens it again
    again = ring(tmp_path, revision=1)
    assert again.add([row("a", text="CANARY")]).refused == 1
    assert not any(b"CANARY" in path.read_bytes() for path in tmp_path.iterdir())


def test_two_replicas_share_one_ring(tmp_path):
    sizes: list[int] = []

    def write(name: str) -> None:
        one = ring(tmp_path, max_bytes=2 * MIB)
        for index in range(60):
            with contextlib.suppress(TooBusy):
                one.add([row(f"{name}{index}", size=15000)])
                one.settle()
            sizes.append(on_disk(tmp_path))

    others = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    there = ids(tmp_path)
    assert any(name.startswith("a") for name in there) and any(name.startswith("b") for name in there)
    assert len(set(there)) == len(there)
    assert max(sizes) <= 2 * MIB


def test_a_label_finds_its_answer_and_the_one_before_it(tmp_path):
    one = ring(tmp_path)
    one.add([row("a")])
    before, record = one.label("a", b"[1]", at_ms=1)
    assert before is None and record == row("a").body
    assert one.label("a", b"[2]", at_ms=2) == (b"[1]", row("a").body)
    assert one.label("unknown", b"[3]", at_ms=3) == (None, None)
    assert [record.label for record in reader.records(tmp_path)] == [[2]]
    # The answer comes after its label.
    assert one.add([row("unknown")]).labelled == (("unknown", b"[3]"),)


def test_labels_are_bounded_in_number(tmp_path):
    one = ring(tmp_path)
    for index in range(one.sizes.labels + 20):
        one.label(f"{index}", b"[1]", at_ms=index)
    assert one.counts()["labels"] == one.sizes.labels
    assert one.label("0", b"[1]", at_ms=1)[0] is None


def test_a_sketch_that_is_too_large_is_not_kept(tmp_path):
    one = ring(tmp_path)
    assert not one.sketch(model="m", digest="d", host="h", at_ms=1, body=b"." * one.sizes.sketches)
    assert one.sketch(model="m", digest="d", host="h", at_ms=2, body=b'{"format": 1}')
    assert list(reader.sketches(tmp_path)) == [("m", "d", 2, {"format": 1})]


@pytest.mark.parametrize("damage", [b"", b"not a database at all, but long enough to look like a file " * 100])
def test_a_damaged_file_is_begun_anew(tmp_path, damage):
    first = ring(tmp_path)
    first.add([row("a")])
    first.close()
    (tmp_path / FILE).write_bytes(damage)
    one = ring(tmp_path)
    one.add([row("b")])
    assert ids(tmp_path) == ["b"]


def test_a_reader_that_stays_makes_writers_wait_and_not_the_log_grow(tmp_path):
    one = ring(tmp_path)
    one.add([row("a")])
    stays = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    stays.execute("BEGIN")
    stays.execute("SELECT count(*) FROM records").fetchone()
    with pytest.raises(TooBusy):
        for index in range(1000):
            one.add([row(f"{index}", size=10000)])
    assert on_disk(tmp_path) <= MIB
    stays.execute("ROLLBACK")
    assert one.add([row("b")]).kept == 1


KILLED = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from tests.unit.runtime.test_capture_ring import ring, row
one = ring(Path({folder!r}))
index = 0
while True:
    one.add([row(f"{{index}}", size=8000), row(f"{{index}}b", priority=1, size=100)])
    one.settle()
    index += 1
    print(index, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40, 90])
def test_a_kill_while_writing_leaves_a_ring_that_can_be_read(tmp_path, after):
    script = KILLED.format(folder=str(tmp_path), paths=[str(REPOSITORY), str(REPOSITORY / "edge-runtime")])
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= after:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = ids(tmp_path)
    assert f"{after - 1}" in there and f"{after - 1}b" in there  # what was committed before the kill
    assert on_disk(tmp_path) <= MIB
    one = ring(tmp_path)
    assert one.add([row("again")]).kept == 1
    assert "again" in ids(tmp_path)
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_rings_of_jobs_that_have_left_go_when_all_in_them_is_too_old(tmp_path):
    for job in ("mine", "left", "fresh"):
        ring(tmp_path / "shop" / job, ttl_seconds=100).close()
    now = 1_000_000.0
    for job, age in (("mine", 500), ("left", 500), ("fresh", 50)):
        for path in (tmp_path / "shop" / job).glob(f"{FILE}*"):
            os.utime(path, (now - age, now - age))
    sweep(tmp_path, keep=tmp_path / "shop" / "mine", now=now)
    assert sorted(path.parent.name for path in tmp_path.glob(f"*/*/{FILE}")) == ["fresh", "mine"]


def test_the_id_itself_is_not_in_the_index(tmp_path):
    one = ring(tmp_path, mode=Redaction.FEATURES)
    one.add([row("CANARY-id", mode=Redaction.FEATURES, text="x")])
    one.label("CANARY-id", json.dumps([1]).encode(), at_ms=1)
    one.close()
    assert not any(b"CANARY" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_ring_that_is_just_being_made_is_empty(tmp_path):
    sqlite3.connect(tmp_path / FILE).execute("PRAGMA journal_mode = WAL")
    assert list(reader.records(tmp_path)) == list(reader.sketches(tmp_path)) == []
