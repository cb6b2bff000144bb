"""Downloads that break off and go on: against real sockets, with servers that know ranges and such that do not."""

from __future__ import annotations

import os

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import Fetched, Limits, fetch
from edgeward_runtime.store import Store
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

CONTENT = os.urandom(900_000)
OTHER = os.urandom(900_000)


@pytest.fixture
def source():
    with serving() as one:
        one.files["/m.onnx"] = CONTENT
        one.ranges = True
        yield one


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def get(store, *sources, waits=None, wanted=CONTENT) -> Fetched:
    entry = Entry(name="m", version="1", digest=digest(wanted), sources=sources)
    limits = Limits(max_bytes=1 << 30, timeout_seconds=5.0, total_seconds=60.0)
    waits = [] if waits is None else waits
    fetched = fetch(
        entry, store=store, limits=limits, cancelled=bool, shunned={}, sleep=waits.append, jitter=lambda: 0.5
    )
    assert fetched.path.read_bytes() == wanted and not list((store.root / "partial").iterdir())
    return fetched


def half(store, source, size: int, path: str = "/m.onnx") -> None:
    """Leaves the first `size` bytes in the store, as a broken connection does."""
    source.cut_after, ranges, source.ranges = size, source.ranges, False
    with pytest.raises(Refusal):
        get(store, source.url(path))
    source.cut_after, source.ranges = None, ranges
    source.headers.clear()


def asked(source) -> list[tuple[str | None, str | None]]:
    return [(headers.get("range"), headers.get("if-range")) for headers in source.headers]


def test_only_what_is_missing_is_asked_for(store, source):
    source.etags["/m.onnx"] = '"1"'
    half(store, source, 400_000)
    fetched = get(Store(store.root), source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (500_000, 400_000)
    assert asked(source) == [("bytes=400000-", '"1"')]


def test_a_server_without_ranges_gives_all(store, source):
    half(store, source, 400_000)
    source.ranges = False
    fetched = get(store, source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (900_000, 0)
    assert asked(source) == [("bytes=400000-", None)]


def test_a_file_that_changed_since_comes_whole(store, source):
    """By If-Range, which costs no second download."""
    source.files["/m.onnx"], source.etags["/m.onnx"] = OTHER, '"old"'
    half(store, source, 400_000)
    source.files["/m.onnx"], source.etags["/m.onnx"] = CONTENT, '"new"'
    fetched = get(store, source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (900_000, 0)
    assert asked(source) == [("bytes=400000-", '"old"')]


def test_a_file_that_changed_unseen_is_asked_for_once_more(store, source):
    """Without a mark of the version only the hash at the end tells; what came first may be what is wrong."""
    source.files["/m.onnx"] = OTHER
    half(store, source, 400_000)
    source.files["/m.onnx"] = CONTENT
    fetched = get(store, source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (500_000 + 900_000, 0)
    assert asked(source) == [("bytes=400000-", None), (None, None)]


def test_wrong_bytes_that_came_whole_are_not_asked_for_again(store, source):
    source.files["/m.onnx"] = OTHER
    half(store, source, 400_000)
    with pytest.raises(Refusal) as caught:
        get(store, source.url("/m.onnx"))
    assert caught.value.reason == "DigestMismatch"
    assert asked(source) == [("bytes=400000-", None), (None, None)]
    assert not list((store.root / "partial").iterdir())


def test_a_weak_mark_is_none(store, source):
    source.etags["/m.onnx"] = 'W/"1"'
    half(store, source, 400_000)
    get(store, source.url("/m.onnx"))
    assert asked(source) == [("bytes=400000-", None)]


def test_another_source_goes_on_with_it(store, source):
    """It has marks of its own: those of the first mean nothing there."""
    source.etags["/m.onnx"] = '"1"'
    half(store, source, 400_000)
    source.files["/mirror.onnx"], source.etags["/mirror.onnx"] = CONTENT, '"2"'
    del source.files["/m.onnx"]
    fetched = get(store, source.url("/m.onnx"), source.url("/mirror.onnx"))
    assert (fetched.received, fetched.resumed) == (500_000, 400_000)
    assert asked(source)[1] == ("bytes=400000-", None)
    assert fetched.source == source.url("/mirror.onnx")


def test_a_disk_goes_on_with_it(store, source, tmp_path):
    half(store, source, 400_000)
    (tmp_path / "m.onnx").write_bytes(CONTENT)
    fetched = get(store, (tmp_path / "m.onnx").as_uri())
    assert (fetched.received, fetched.resumed) == (500_000, 400_000)


def test_what_was_whole_already_is_not_asked_for(store, source):
    name = digest(CONTENT)
    half(store, source, 400_000)
    with store.locked(name, cancelled=bool), store.partial(name) as partial:
        partial.write(CONTENT[400_000:])
    fetched = get(store, source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (0, 900_000) and not source.headers


def test_a_half_that_is_longer_than_the_file(store, source):
    """416: the rest cannot be had, the whole may."""
    half(store, source, 900_000 - 1)
    name = digest(CONTENT)
    with store.locked(name, cancelled=bool), store.partial(name) as partial:
        partial.write(b"xx")
    note = next((store.root / "partial").glob("*.json"))
    note.write_bytes(note.read_bytes().replace(b"900000", b"999999"))
    fetched = get(store, source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (900_000, 0)
    assert asked(source) == [("bytes=900001-", None), (None, None)]


def test_another_range_than_asked_for_is_not_taken(store, source):
    half(store, source, 400_000)
    source.answers_from = 300_000
    fetched = get(store, source.url("/m.onnx"))
    assert (fetched.received, fetched.resumed) == (900_000, 0)
    assert asked(source) == [("bytes=400000-", None), (None, None)]


def test_a_connection_that_breaks_again_and_again_ends_well(store, source):
    source.cut_after = 100_000
    waits: list[float] = []
    fetched = get(store, source.url("/m.onnx"), waits=waits)
    assert (fetched.received, fetched.resumed) == (900_000, 0)
    assert [headers.get("range") for headers in source.headers] == [None] + [
        f"bytes={start}-" for start in range(100_000, 900_000, 100_000)
    ]
    assert sum(waits) == pytest.approx(8 * 1.0), "a short wait before each"


def test_without_ranges_a_connection_that_breaks_is_given_up(store, source):
    source.ranges, source.cut_after = False, 100_000
    with pytest.raises(Refusal) as caught:
        get(store, source.url("/m.onnx"))
    assert caught.value.reason == "Unreachable" and len(source.requests) == 2
