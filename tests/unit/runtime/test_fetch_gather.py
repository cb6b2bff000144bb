"""Files in parts, from the store and from several sources: whatever they give and whenever it ends, the bytes are right or
refused."""

from __future__ import annotations

import contextlib
import hashlib
import random
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward_runtime.artifact import chunks, packed
from edgeward_runtime.artifact.chunks import Chunk, Sizes
from edgeward_runtime.artifact.manifest import Layer, Manifest
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import Limits, giver, outside, refusals
from edgeward_runtime.fetch.assembly import Place
from edgeward_runtime.fetch.gather import Known, gather
from edgeward_runtime.fetch.giver import From
from edgeward_runtime.fetch.pace import Pace
from edgeward_runtime.fetch.reuse import chunks_here, worth
from edgeward_runtime.fetch.source import NoParts, Opened, Source
from edgeward_runtime.fetch.transfer import Job, Wanted, transfer
from edgeward_runtime.store import Store
from edgeward_runtime.store.partial import Origin, Partial

SIZES = Sizes(least=4096, average=16 * 1024, most=64 * 1024)
CONTENT = random.Random(1).randbytes(700_000) + bytes(400_000) + random.Random(2).randbytes(500_000)
LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=1, total_seconds=1e9)


def name(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


DIGEST = name(CONTENT)


def indexed(data: bytes) -> tuple[tuple[Chunk, ...], bytes]:
    """Its chunks with where they are packed, and the packed ones."""
    found, blob = [], b""
    for chunk in chunks.split(data, sizes=SIZES):
        small = packed.pack(data[chunk.offset : chunk.offset + chunk.length])
        found.append(replace(chunk, packed=(len(blob), len(small))))
        blob += small
    return tuple(found), blob


CHUNKS, PACKED = indexed(CONTENT)


@dataclass(frozen=True)
class Gives:
    """What a source does: which bytes it has, after how many bytes each connection ends, how many connections it takes."""

    content: bytes = CONTENT
    packed: bytes | None = None
    parts: bool = True
    cut: int = 10**9
    error: bool = False
    connections: int = 10**9


class Breaks(BytesIO):
    error = False

    def read1(self, size: int = -1, /) -> bytes:
        chunk = super().read1(min(size, 30_000))
        if not chunk and self.error:
            raise ConnectionResetError("reset")
        return chunk


class Told:
    """A source, and which bytes it gave."""

    def __init__(self, address: str, gives: Gives, stop: threading.Event) -> None:
        self.gives = gives
        self.asked: list[tuple[int, int]] = []
        self.sent = 0
        self._stop = stop
        self._left = gives.connections
        small = self._source(f"{address}.packed", gives.packed) if gives.packed is not None else None
        self.source = From(label=address, raw=self._source(address, gives.content), packed=small)

    def _source(self, address: str, content: bytes) -> Source:
        @contextlib.contextmanager
        def opened(start: int, end: int) -> Iterator[Opened]:
            self._left -= 1
            if self._left < 0:
                raise refusals.unreachable(address, "is away")
            part = content[start:end]
            reader = Breaks(part[: self.gives.cut])
            reader.error = self.gives.error and self.gives.cut < len(part)
            self.asked.append((start, end))
            try:
                yield Opened(reader=reader, offset=start, total=len(content))
            finally:
                self.sent += reader.tell()

        @contextlib.contextmanager
        def part(start: int, end: int) -> Iterator[Opened]:
            if not self.gives.parts:
                raise NoParts
            with opened(start, end) as found:
                yield found

        @contextlib.contextmanager
        def open_(offset: int, _origin: Origin) -> Iterator[Opened]:
            with opened(offset, len(content)) as found:
                yield found

        return Source(address=address, open=open_, part=part)


def job_for(store: Store, patience: int = 10**9) -> Job:
    """One whose process ends after so many looks at whether to go on."""
    left = iter(range(patience))
    return Job(
        store=store,
        limits=LIMITS,
        pace=Pace(0, clock=lambda: 0.0, sleep=lambda _s: None),
        cancelled=lambda: next(left, None) is None,
        sleep=lambda _s: None,
    )


def kept(store: Store, *files: bytes) -> list[Path]:
    found = []
    for data in files:
        with store.locked(name(data), cancelled=bool), store.partial(name(data)) as partial:
            partial.begin(Origin())
            partial.write(data)
            found.append(store.commit(name(data), partial))
    return found


def brought(store: Store, gives: list[Gives], known: Known, job: Job) -> list[Told]:
    """As outside.py does it: in parts if it can be had like that, else plainly from the first source."""
    stop = threading.Event()
    told = [Told(f"test://{number}", one, stop) for number, one in enumerate(gives)]
    with store.locked(DIGEST, cancelled=bool):
        wanted = Wanted(digest=DIGEST, size=len(CONTENT))
        if store.find(DIGEST) is None and not gather(wanted, [one.source for one in told], known, job, stop=stop):
            transfer(wanted, told[0].source.raw, job)
    return told


def here(files: list[Path], wanted: tuple[Chunk, ...] = CHUNKS) -> Known:
    found = chunks_here((one.digest for one in wanted), files, size=len(CONTENT), cancelled=bool, sizes=SIZES)
    return Known(chunks=wanted, here=found)


def right(store: Store) -> bool:
    path = store.find(DIGEST)
    return path is not None and path.read_bytes() == CONTENT and not list((store.root / "partial").iterdir())


@pytest.fixture
def slow_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """These sources give as fast as memory, where nothing packed would be asked for."""
    monkeypatch.setattr(packed, "pays", lambda **_figures: True)


# -- one thing at a time ----------------------------------------------------------------------------------------------


def test_only_what_no_other_version_has_is_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = CONTENT[:300_000] + b"x" * 50_000 + CONTENT[310_000:]
    job = job_for(store)
    told = brought(store, [Gives()], here(kept(store, old)), job)
    assert right(store)
    assert told[0].sent == job.counts.received == len(CONTENT) - job.counts.reused < 10_000 + 4 * SIZES.most
    assert all(start > 200_000 and end < 400_000 for start, end in told[0].asked)


def test_of_several_versions_each_gives_what_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path)
    job = job_for(store)
    told = brought(store, [Gives()], here(kept(store, CONTENT[:800_000], CONTENT[750_000:])), job)
    assert right(store) and told[0].sent < 4 * SIZES.most


def test_a_damaged_chunk_is_fetched(tmp_path: Path) -> None:
    """What was right when it was looked at may be wrong when it is copied."""
    store = Store(tmp_path)
    files = kept(store, CONTENT + b"end")
    known = here(files)
    files[0].chmod(0o644)
    with files[0].open("r+b") as file:
        file.seek(500_000)
        file.write(b"damage")
    told = brought(store, [Gives()], known, job_for(store))
    assert right(store) and SIZES.least < told[0].sent <= 3 * SIZES.most


def test_a_version_that_is_gone_by_then_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = kept(store, CONTENT + b"end")
    known = here(files)
    files[0].unlink()
    told = brought(store, [Gives()], known, job_for(store))
    assert right(store) and told[0].sent == len(CONTENT)


def test_an_index_that_lies_costs_a_plain_download(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = random.Random(3).randbytes(len(CONTENT))
    lies = tuple(replace(one, packed=None) for one in indexed(other)[0])
    told = brought(store, [Gives()], here(kept(store, other), lies), job_for(store))
    assert right(store) and told[0].sent == len(CONTENT)


@pytest.mark.parametrize("place", [1, 5000, 100_000, 700_000, 1_000_000, len(CONTENT) - 1])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.usefixtures("slow_link")
def test_a_process_that_ends_anywhere_is_gone_on_with(tmp_path: Path, place: int, small: bool) -> None:
    store = Store(tmp_path)
    gives = Gives(packed=PACKED if small else None)
    whole = len(PACKED) if small else len(CONTENT)
    place = min(place, whole - 1)
    first = replace(gives, cut=place, connections=1)
    known = Known(chunks=CHUNKS)
    with pytest.raises(Refusal):
        brought(store, [first], known, job_for(store))
    told = brought(Store(tmp_path), [gives], known, job_for(Store(tmp_path)))
    assert right(store)
    # Of a packed chunk that is not whole nothing is kept when the process ends.
    twice = max(one.packed[1] for one in CHUNKS if one.packed) if small else 0
    assert whole - place <= told[0].sent <= whole - place + twice


@pytest.mark.usefixtures("slow_link")
def test_connections_that_break_cost_no_byte_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told = brought(store, [Gives(packed=PACKED, cut=9_999, error=True)], Known(chunks=CHUNKS), job_for(store))
    assert right(store) and told[0].sent == len(PACKED) < 0.8 * len(CONTENT)


@pytest.mark.usefixtures("slow_link")
def test_packed_chunks_that_are_wrong_are_fetched_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wrong = PACKED[: len(PACKED) // 2] + bytes(len(PACKED) - len(PACKED) // 2)
    told = brought(store, [Gives(packed=wrong)], Known(chunks=CHUNKS), job_for(store))
    assert right(store) and told[0].sent < 2 * len(CONTENT)


@pytest.mark.parametrize("small", [None, PACKED])
@pytest.mark.parametrize("dies", [0, 1])
@pytest.mark.parametrize("cut", [0, 1, 70_000, 262_143])
@pytest.mark.usefixtures("slow_link")
def test_a_source_that_dies_costs_no_byte_twice(tmp_path: Path, dies: int, cut: int, small: bytes | None) -> None:
    store = Store(tmp_path)
    gives = [Gives(packed=small), Gives(packed=small)]
    gives[dies] = replace(gives[dies], cut=cut, connections=1)
    job = job_for(store)
    told = brought(store, gives, Known(chunks=CHUNKS), job)
    whole = len(CONTENT) if small is None else len(small)
    assert right(store) and sum(one.sent for one in told) == whole == job.counts.received


def test_a_source_without_parts_gives_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told = brought(store, [Gives(parts=False)], Known(chunks=CHUNKS), job_for(store))
    assert right(store) and told[0].sent == len(CONTENT)


def test_the_other_source_has_parts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told = brought(store, [Gives(parts=False), Gives()], Known(), job_for(store))
    assert right(store) and [one.sent for one in told] == [0, len(CONTENT)]


def test_all_sources_die(tmp_path: Path) -> None:
    store = Store(tmp_path)
    gone = Gives(cut=100_000, connections=1)
    with pytest.raises(Refusal) as caught:
        brought(store, [gone, gone], Known(), job_for(store))
    assert caught.value.reason == "Unreachable"
    job = job_for(store)
    told = brought(Store(tmp_path), [Gives()], Known(), job)
    assert right(store) and job.counts.resumed == 200_000 and told[0].sent == len(CONTENT) - 200_000


def test_the_next_file_comes_in_parts_too(tmp_path: Path) -> None:
    """An artifact's files share what stops the second source."""
    stop, store = threading.Event(), Store(tmp_path)
    for seed in (8, 9):
        data = random.Random(seed).randbytes(2_000_000)
        told = [Told(f"test://{number}", Gives(content=data), stop) for number in range(2)]
        with store.locked(name(data), cancelled=bool):
            wanted = Wanted(digest=name(data), size=len(data))
            assert gather(wanted, [one.source for one in told], Known(), job_for(store), stop=stop)
        assert sum(one.sent for one in told) == len(data)


def test_a_source_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """Until its timeout it may hold a part of the file: after a while the other one fetches that too."""
    store, hangs, now = Store(tmp_path), threading.Event(), iter(range(10**9))
    told = [Told("test://0", Gives(), threading.Event()), Told("test://1", Gives(), threading.Event())]

    @contextlib.contextmanager
    def hanging(_start: int, _end: int) -> Iterator[Opened]:
        hangs.wait()
        raise refusals.unreachable("test://1", "is away")
        yield  # pragma: no cover

    second = replace(told[1].source, raw=replace(told[1].source.raw, part=hanging))
    job = replace(job_for(store), clock=lambda: float(next(now)))
    with store.locked(DIGEST, cancelled=bool):
        wanted = Wanted(digest=DIGEST, size=len(CONTENT))
        assert gather(wanted, [told[0].source, second], Known(), job, stop=threading.Event())
    assert right(store) and told[0].sent == len(CONTENT)
    hangs.set()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=30), st.integers(2, 6))
def test_what_is_missing_is_few_parts(pattern: list[tuple[bool, int]], most: int) -> None:
    cut, at = [], 0
    for number, (_, length) in enumerate(pattern):
        cut.append(Chunk(at, length, str(number)))
        at += length
    found = {str(number): Place(Path("x"), 0) for number, (local, _) in enumerate(pattern) if local}
    used = worth(cut, found, most=most)
    missing = [one.digest for one in cut if one.digest not in used]
    runs = sum(not number or str(int(one) - 1) != missing[number - 1] for number, one in enumerate(missing))
    assert runs <= most and set(used) <= set(found)
    if (
        len([True for number, (local, _) in enumerate(pattern) if local and not (number and pattern[number - 1][0])])
        < most
    ):
        assert used == found


def test_what_the_store_had_is_counted_over_all_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    known = here(kept(store, CONTENT + b"end"))
    job = job_for(store)
    job.counts.reused = 1_000
    brought(store, [Gives()], known, job)
    assert job.counts.reused == 1_000 + len(CONTENT) - job.counts.received


@pytest.mark.parametrize("parts", [True, False])
def test_what_came_out_of_order_needs_no_room_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """On a disk that has room for the file and hardly more; also where the rest comes plainly, from a peer perhaps."""
    store = Store(tmp_path)
    write = Partial.write

    def full(partial: Partial, data: bytes | memoryview) -> None:
        used = partial.size + sum(end - start for start, end in partial.islands.ranges())
        if used + len(data) > len(CONTENT) + 100_000:
            raise Refusal(step="Fetch", reason="DiskFull", message="no room", permanent=False)
        write(partial, data)

    with store.locked(DIGEST, cancelled=bool), store.partial(DIGEST) as partial:
        partial.begin(Origin(total=len(CONTENT)))
        partial.write(CONTENT[:600_000])
        partial.islands.append(700_000, CONTENT[700_000:])
    monkeypatch.setattr(Partial, "write", full)
    brought(store, [Gives(parts=parts)], Known(), job_for(store))
    assert right(store)


def test_putting_together_can_be_given_up(tmp_path: Path) -> None:
    """Of a large file that the store has nearly all of, this is what takes long."""
    store = Store(tmp_path)
    known = here(kept(store, CONTENT + b"end"))
    with pytest.raises(Cancelled):
        brought(store, [Gives()], known, job_for(store, patience=5))
    partial = store.root / "partial" / DIGEST.removeprefix("sha256:")
    assert 0 < partial.stat().st_size < CHUNKS[8].offset


def test_a_small_file_is_not_looked_for_in_a_large_one(tmp_path: Path) -> None:
    large, small = kept(Store(tmp_path), CONTENT, CONTENT[-300_000:])
    wanted = [chunk.digest for chunk in chunks.split(CONTENT[-300_000:], sizes=SIZES)]
    found = chunks_here(wanted, [large, small], size=300_000, cancelled=bool, sizes=SIZES)
    assert found and {place.path for place in found.values()} == {small}


def test_packed_chunks_pay_on_a_link_that_is_fast_but_paced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def clock() -> float:
        nonlocal now
        now += 1e-4  # that anything takes: reading as well as unpacking
        return now

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(giver, "_KNOWN", 1)
    monkeypatch.setattr(giver, "time", SimpleNamespace(perf_counter=clock))
    store = Store(tmp_path)
    pace = Pace(8e7, clock=lambda: now, sleep=sleep)
    pace.took(2_500_000, bool)  # what may come at once
    told = brought(store, [Gives(packed=PACKED)], Known(chunks=CHUNKS), replace(job_for(store), pace=pace))
    assert right(store) and told[0].sent < len(CONTENT) * 0.9


def test_who_finds_out_that_packed_chunks_do_not_pay_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "pays", lambda **figures: figures["unpack_rate"] == 0)
    store = Store(tmp_path)
    told = brought(store, [Gives(packed=PACKED)], Known(chunks=CHUNKS), job_for(store))
    assert right(store) and len(told[0].asked) == 2
    assert told[0].sent > len(PACKED)


def test_a_second_source_that_lies_spoils_one_file(tmp_path: Path) -> None:
    store, rng = Store(tmp_path), random.Random(9)
    files = [rng.randbytes(3_000_000) for _ in range(3)]
    by_digest = {name(data): data for data in files}

    class Repository:
        def __init__(self, address: str, *, lies: bool) -> None:
            self.address, self.asked, self.lies = address, 0, lies

        def blob(self, digest: str) -> Source:
            data = by_digest[digest]
            content = bytes(len(data)) if self.lies else data

            @contextlib.contextmanager
            def part(start: int, end: int) -> Iterator[Opened]:
                self.asked += 1
                yield Opened(reader=Breaks(content[start:end]), offset=start, total=len(content))

            @contextlib.contextmanager
            def open_(offset: int, _origin: Origin) -> Iterator[Opened]:
                yield Opened(reader=Breaks(content[offset:]), offset=offset, total=len(content))

            return Source(address=self.address, open=open_, part=part)

    honest, liar = Repository("oci://r/a", lies=False), Repository("oci://r/b", lies=True)
    layers = tuple(
        Layer(digest=digest, size=len(data), media_type="", path=f"{number}.bin")
        for number, (digest, data) in enumerate(by_digest.items())
    )
    manifest = Manifest(config=layers[0], layers=layers, annotations={})
    repositories: Any = [honest, liar]
    artifact = outside.Artifact(
        repositories=repositories, manifest=manifest, job=job_for(store), stop=threading.Event()
    )
    asked = []
    for digest in by_digest:
        with store.locked(digest, cancelled=bool):
            artifact.file(Wanted(digest=digest, size=3_000_000))
        assert store.find(digest) is not None
        asked.append(liar.asked)
    assert asked[0] > 0 and asked[-1] == asked[0]


# -- all of it at once ------------------------------------------------------------------------------------------------

OTHER = random.Random(5).randbytes(len(CONTENT))
edits = st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 300_000), st.binary(max_size=20))
gives = st.builds(
    Gives,
    content=st.sampled_from([CONTENT, CONTENT, CONTENT, OTHER, CONTENT[:-1]]),
    packed=st.sampled_from([None, PACKED, PACKED, OTHER]),
    parts=st.sampled_from([True, True, False]),
    cut=st.sampled_from([0, 20_001, 50_000, 300_000, 10**9]),
    error=st.booleans(),
    connections=st.sampled_from([1, 3, 10**9]),
)
tries = st.tuples(st.lists(gives, min_size=1, max_size=2), st.sampled_from([3, 20, 60, 10**9]), st.booleans())


@settings(max_examples=40, deadline=None)
@given(
    versions=st.lists(edits, max_size=2),
    damage=st.integers(0, len(CONTENT)) | st.none(),
    lies=st.booleans(),
    several=st.lists(tries, max_size=3),
)
def test_whatever_happens(
    versions: list[tuple[int, int, bytes]],
    damage: int | None,
    lies: bool,
    several: list[tuple[list[Gives], int, bool]],
) -> None:
    index = indexed(OTHER)[0] if lies else CHUNKS
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        olds = [CONTENT[:start] + new + CONTENT[start + size :] for start, size, new in versions]
        files = kept(store, *dict.fromkeys([*olds, OTHER] if lies else olds))
        with_index = here([file for file in files if file.name != DIGEST.removeprefix("sha256:")], index)
        if damage is not None and files:
            files[0].chmod(0o644)
            with files[0].open("r+b") as file:
                file.seek(damage)
                file.write(b"damage")
        for sources, patience, knows in several:
            with contextlib.suppress(Refusal, Cancelled):
                store = Store(Path(folder))
                brought(store, sources, with_index if knows else Known(), job_for(store, patience))
            found = Store(Path(folder)).find(DIGEST)
            assert found is None or found.read_bytes() == CONTENT
        store = Store(Path(folder))
        brought(store, [Gives()], with_index, job_for(store))
        assert right(Store(Path(folder)))
