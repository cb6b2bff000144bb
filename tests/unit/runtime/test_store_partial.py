"""Halves of downloads: what is kept, and what is not believed."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from edgeward_runtime.errors import Cancelled
from edgeward_runtime.store.partial import Origin, Partial, note_path

CONTENT = os.urandom(100_000)
ORIGIN = Origin(source="abc", etag='"1"', total=len(CONTENT))


def opened(path, *, checkpoint=16_000):
    return Partial(path, cancelled=bool, checkpoint=checkpoint)


def write(path, content, *, checkpoint=16_000):
    partial = opened(path, checkpoint=checkpoint)
    partial.begin(ORIGIN)
    for start in range(0, len(content), 1000):
        partial.write(content[start : start + 1000])
    partial.close()


def edit(path, **fields):
    note = json.loads(note_path(path).read_bytes())
    note_path(path).write_text(json.dumps({**note, **fields}))


def found(path):
    partial = opened(path)
    assert partial.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert partial.size == path.stat().st_size == partial.found
    partial.close()
    return partial


def test_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT[:50_500])
    partial = found(path)
    assert partial.size == 50_500 and partial.origin == ORIGIN
    partial = opened(path)
    partial.write(CONTENT[50_500:])
    assert partial.sha256 == hashlib.sha256(CONTENT).hexdigest()
    partial.commit(tmp_path / "blobs" / "b")
    assert (tmp_path / "blobs" / "b").read_bytes() == CONTENT
    assert [one.name for one in tmp_path.iterdir()] == ["blobs"]


def test_after_a_power_cut_only_what_was_synced_is_taken(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT[:50_500])
    edit(path, boot="another")
    assert found(path).size == 48_000


def test_a_file_shorter_than_what_was_synced_is_dropped(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT[:50_500])
    os.truncate(path, 47_999)
    assert found(path).size == 0


@pytest.mark.parametrize("at", [0, 47_999])
def test_bytes_that_changed_before_the_synced_point_are_dropped(tmp_path, at):
    path = tmp_path / "p"
    write(path, CONTENT[:50_500])
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)
    partial = found(path)
    assert partial.size == 0 and partial.origin == Origin()


@pytest.mark.parametrize(
    "note",
    [None, b"", b"{", b"[]", b"{}", b'{"origin": 1, "boot": "", "synced": 0, "sha256": ""}',
     b'{"origin": {}, "boot": "", "synced": -5, "sha256": ""}', b'{"origin": {"x": 1}, "boot": "", "synced": 0, "sha256": ""}',
     b'{"origin": {"total": "9"}, "boot": "", "synced": 0, "sha256": ""}'],
)  # fmt: skip
def test_bytes_of_which_nothing_is_known_are_dropped(tmp_path, note):
    path = tmp_path / "p"
    write(path, CONTENT[:5000])
    note_path(path).unlink()
    if note is not None:
        note_path(path).write_bytes(note)
    assert found(path).size == 0


def test_a_half_that_was_about_to_become_a_blob_can_be_opened(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT)
    path.chmod(0o444)
    assert found(path).size == len(CONTENT)


def test_nothing_is_left_of_nothing(tmp_path):
    partial = opened(tmp_path / "p")
    partial.begin(ORIGIN)
    partial.close()
    assert not list(tmp_path.iterdir())


def test_from_the_beginning(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT[:50_500])
    partial = opened(path)
    partial.restart()
    assert (partial.size, partial.found, path.stat().st_size) == (0, 0, 0)
    partial.write(CONTENT)
    assert partial.sha256 == hashlib.sha256(CONTENT).hexdigest()
    partial.discard()
    assert not list(tmp_path.iterdir())


def test_reading_a_large_half_can_be_given_up(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT)
    with pytest.raises(Cancelled):
        Partial(path, cancelled=lambda: True)
    assert path.stat().st_size == len(CONTENT)


def test_the_note_keeps_no_address(tmp_path):
    path = tmp_path / "p"
    write(path, CONTENT[:100])
    assert set(json.loads(note_path(path).read_bytes())["origin"]) == {"source", "etag", "modified", "total"}


def island(path, *pieces):
    partial = opened(path)
    partial.begin(ORIGIN)
    for start, end in pieces:
        partial.islands.append(start, CONTENT[start:end])
    partial.close()


def test_what_came_before_its_turn_is_found_again(tmp_path):
    path = tmp_path / "p"
    island(path, (60_000, 70_000), (20_000, 30_000), (70_000, 75_000))
    partial = opened(path)
    assert partial.size == 0 and partial.islands.ranges() == [(20_000, 30_000), (60_000, 75_000)]
    partial.write(CONTENT[:25_000])
    for data in partial.islands.take(partial.size):
        partial.write(data)
    assert partial.size == 30_000 and partial.islands.ranges() == [(60_000, 75_000)]
    assert partial.sha256 == hashlib.sha256(CONTENT[:30_000]).hexdigest()
    partial.islands.append(75_000, CONTENT[75_000:])
    partial.write(CONTENT[30_000:60_000])
    for data in partial.islands.take(60_000):
        partial.write(data)
    assert partial.sha256 == hashlib.sha256(CONTENT).hexdigest() and not partial.islands
    partial.commit(tmp_path / "blobs" / "b")
    assert [one.name for one in tmp_path.iterdir()] == ["blobs"]


@pytest.mark.parametrize("how", ["power cut", "restart", "discard"])
def test_what_came_before_its_turn_goes_with_the_rest(tmp_path, how):
    path = tmp_path / "p"
    island(path, (20_000, 30_000))
    if how == "power cut":
        edit(path, boot="another")
    partial = opened(path)
    if how == "restart":
        partial.restart()
    if how == "discard":
        partial.discard()
    assert not partial.islands and not list(tmp_path.glob("p.2*"))
    partial.close()
