import hashlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.artifact import chunks
from edgeward_runtime.artifact.chunks import GEAR, SIZES, Chunk, Sizes, dumps, loads, split
from edgeward_runtime.errors import Refusal

SMALL = Sizes(least=32, average=128, most=512)


def plain(data: bytes, sizes: Sizes) -> list[int]:
    """The definition, a byte at a time: ends of chunks."""
    ends, start, value = [], 0, 0
    for position, byte in enumerate(data, start=1):
        value = (2 * value + int(GEAR[byte])) % 2**32
        length = position - start
        if (length >= sizes.least and value < sizes.threshold) or length == sizes.most or position == len(data):
            ends.append(position)
            start = position
    return ends


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


contents = st.one_of(
    st.binary(max_size=4000),
    st.builds(noise, st.integers(0, 1000), st.integers(0, 8000)),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(0, 4000)),
)


@given(contents)
def test_chunks_are_the_file_again_and_within_bounds(data: bytes) -> None:
    found = split(data, sizes=SMALL)
    assert b"".join(data[one.offset : one.offset + one.length] for one in found) == data
    assert [one.offset for one in found] == [0, *itertools.accumulate(one.length for one in found)][: len(found)]
    assert all(SMALL.least <= one.length <= SMALL.most for one in found[:-1])
    for one in found:
        part = data[one.offset : one.offset + one.length]
        assert one.digest == f"sha256:{hashlib.sha256(part).hexdigest()}"
    assert split(bytearray(data), sizes=SMALL) == found, "the same bytes are cut the same"


@given(contents)
def test_cuts_are_those_of_the_definition(data: bytes) -> None:
    assert [one.offset + one.length for one in split(data, sizes=SMALL)] == plain(data, SMALL)


def test_a_block_ends_nowhere_that_can_be_seen() -> None:
    data = noise(7, 3 * chunks._BLOCK + 1234)
    assert [one.offset + one.length for one in split(data, sizes=SMALL)] == plain(data, SMALL)


@given(st.integers(0, 1000), st.data())
def test_an_insertion_changes_few_chunks(seed: int, draw: st.DataObject) -> None:
    """What comes after is cut as before once two neighbouring cuts fall together. How many chunks that takes is chance;
    20 of 128 bytes on average is far beyond what it does."""
    data = noise(seed, 16_000)
    at = draw.draw(st.integers(0, len(data)))
    removed = draw.draw(st.integers(0, 200))
    changed = data[:at] + draw.draw(st.binary(max_size=200)) + data[at + removed :]
    before = {one.digest for one in split(data, sizes=SMALL)}
    new = [one for one in split(changed, sizes=SMALL) if one.digest not in before]
    assert len(new) <= 20


def test_sizes_are_what_they_are_said_to_be() -> None:
    data = np.random.default_rng(3).bytes(48 * 2**20)
    found = split(data)
    assert 200 * 1024 < len(data) / len(found) < 320 * 1024
    assert max(one.length for one in found) <= SIZES.most
    shifted = split(b"a few bytes more" + data)
    known = {one.digest for one in found}
    assert sum(one.length for one in shifted if one.digest not in known) < 3 * SIZES.most


def test_the_format_stays() -> None:
    """Whoever has an older version cut it by themselves: a change of the table or the sizes is a new format."""
    assert hashlib.sha256(GEAR.astype("<u4").tobytes()).hexdigest() == TABLE
    assert hashlib.sha256(dumps({f"sha256:{'a' * 64}": split(noise(1, 2**21))})).hexdigest() == INDEX


TABLE = "73982545dd6c7f0412937ad41599eee3b7067a4eb9085de7b6e709b12cf2b43e"
INDEX = "70440b1d71643cceaffdc22aea7c29ea08b6bb19cf2017c448db7d6295b3d381"

digests = st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}")


@st.composite
def indexes(draw: st.DrawFn) -> dict[str, tuple[Chunk, ...]]:
    files = {}
    for name in draw(st.lists(digests, unique=True, max_size=4)):
        lengths = draw(st.lists(st.integers(1, SIZES.most), min_size=2, max_size=5))
        offsets = itertools.accumulate([0, *lengths])
        files[name] = tuple(Chunk(at, length, draw(digests)) for at, length in zip(offsets, lengths, strict=False))
    return files


@given(indexes())
def test_an_index_comes_back(index: dict[str, tuple[Chunk, ...]]) -> None:
    text = dumps(index)
    assert (loads(text) if text else {}) == index


def test_files_of_one_chunk_are_left_out() -> None:
    data = noise(2, 1000)
    one = {"sha256:" + "a" * 64: split(data)}
    assert dumps(one) == b"" and dumps({}) == b""
    both = one | {"sha256:" + "b" * 64: split(data, sizes=SMALL)}
    assert list(loads(dumps(both))) == ["sha256:" + "b" * 64]


@given(indexes().filter(bool), st.data())
def test_a_damaged_index_is_read_to_its_end_or_refused(
    index: dict[str, tuple[Chunk, ...]], draw: st.DataObject
) -> None:
    text = bytearray(dumps(index))
    cut = draw.draw(st.integers(0, len(text) - 1))
    with pytest.raises(Refusal, match="BadChunks"):
        loads(bytes(text[:cut]))
    with pytest.raises(Refusal, match="BadChunks"):
        loads(bytes(text) + b"x")
    text[cut] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        for name, found in loads(bytes(text)).items():
            assert name.startswith("sha256:") and all(0 < one.length <= SIZES.most for one in found)
    except Refusal as refusal:
        assert refusal.reason == "BadChunks" and refusal.permanent
