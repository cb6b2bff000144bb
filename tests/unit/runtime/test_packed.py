"""Chunks in fewer bytes, and back."""

from __future__ import annotations

import contextlib
import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.artifact import packed
from edgeward_runtime.artifact.chunks import Chunk, Sizes, dumps, loads, split
from edgeward_runtime.errors import Refusal

contents = st.one_of(
    st.binary(min_size=1, max_size=3000),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 100), st.integers(1, 9000)),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(1, 9000)),
)


@given(contents)
def test_there_and_back(data: bytes) -> None:
    small = packed.pack(data)
    assert len(small) <= len(data) + 1
    assert packed.unpack(small, len(data)) == data
    for other in (len(data) - 1, len(data) + 1):
        with pytest.raises(ValueError, match="wanted"):
            packed.unpack(small, other)


@given(st.binary(max_size=200), st.integers(1, 500))
def test_what_nobody_packed_is_refused_or_has_the_size(data: bytes, length: int) -> None:
    with contextlib.suppress(ValueError):
        assert len(packed.unpack(data, length)) == length


def test_a_bomb_does_not_go_off() -> None:
    bomb = b"\1" + zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(ValueError, match="1000 bytes wanted, 1001 found"):
        packed.unpack(bomb, 1000)


def test_weights_get_smaller_by_turns() -> None:
    """Their low bits are noise, their signs and exponents are not."""
    weights = np.random.default_rng(1).normal(0, 0.02, 100_000).astype(np.float32).tobytes()
    assert len(packed.pack(weights)) < 0.9 * len(weights) < len(zlib.compress(weights, 6))


@pytest.mark.parametrize(
    ("size", "small", "bandwidth", "unpack_rate", "pays"),
    [
        (100, 80, 10, 1000, True),  # 8 + 0.1 < 10 s
        (100, 80, 10, 45, False),  # 8 + 2.2 > 10 s
        (100, 100, 0, 0, False),
        (100, 99, 0, 0, True),  # nothing is known yet
        (100, 99, 10, 0, True),
    ],
)
def test_it_pays_if_it_takes_less_time(size: int, small: int, bandwidth: float, unpack_rate: float, pays: bool) -> None:
    assert packed.pays(size=size, packed=small, bandwidth=bandwidth, unpack_rate=unpack_rate) is pays


def test_the_index_tells_where_packed_chunks_are() -> None:
    sizes = Sizes(least=32, average=128, most=512)
    at, index = 0, {}
    for seed in (1, 2):
        data = random.Random(seed).randbytes(5000)
        cut = []
        for one in split(data, sizes=sizes):
            cut.append(Chunk(one.offset, one.length, one.digest, (at, one.length // 2)))
            at += one.length // 2
        # By rising digest, as in the index.
        index[f"sha256:{seed:064x}"] = tuple(cut)
    text = dumps(index)
    assert loads(text) == index
    for end in range(len(text)):
        with pytest.raises(Refusal):
            loads(text[:end])


def test_a_packed_chunk_that_is_longer_than_it_could_be_is_refused() -> None:
    index = {
        f"sha256:{1:064x}": (Chunk(0, 100, f"sha256:{2:064x}", (0, 101)), Chunk(100, 9, f"sha256:{3:064x}", (101, 5)))
    }
    assert loads(dumps(index)) == index
    bad = {
        f"sha256:{1:064x}": (Chunk(0, 100, f"sha256:{2:064x}", (0, 102)), Chunk(100, 9, f"sha256:{3:064x}", (102, 5)))
    }
    with pytest.raises(Refusal) as caught:
        loads(dumps(bad))
    assert caught.value.reason == "BadChunks"
