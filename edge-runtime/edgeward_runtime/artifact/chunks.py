"""Where a layer's bytes are cut into chunks, and the index of them that is published beside it; pure.

Cuts hang on the content and not on the position, so that two versions of a file have most chunks in common although one
has bytes more or fewer somewhere: who has one version fetches of the other only chunks that are new.

A cut may be behind every byte i whose rolling hash is small. The hash is a gear hash (W. Xia et al., Ddelta: A
deduplication-inspired fast delta compression approach, Performance Evaluation 79, 2014), modulo 2**32:

    h(i) = GEAR[b(i)] + 2 h(i-1) = sum_{j=0}^{31} GEAR[b(i-j)] 2**j

so it sees the last 32 bytes and no more. Taken is the first such place from `least` bytes on after the last cut, or after
`most` bytes there is one anyway. Of two halves of that sum, the later one is the earlier one's form: numpy adds it up in
five steps, over a whole block at a time.

The index, little-endian, all of it in one blob:

    "EDGEWARDCHUNKS" uint16 format, uint32 number of files
    per file: 32 bytes sha256 of the file, uint64 its size, uint32 number of chunks
              per chunk: 32 bytes sha256 of the chunk, uint32 its length; in format 2 also uint32 its packed length

Format 2 comes with one more blob, the packed chunks one after the other in the order of the index, see packed.py.
Chunks lie one after the other from the file's first byte to its last, so a chunk's offset is the sum of the lengths before
it. Files with a single chunk are left out: the layer's own digest says as much.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeward_runtime.artifact.manifest import MAX_CHUNKS_BYTES
from edgeward_runtime.errors import Refusal

_MAGIC = b"EDGEWARDCHUNKS"
_PLAIN, _PACKED = 1, 2
_HEAD = struct.Struct("<14sHI")
_FILE = struct.Struct("<32sQI")
_CHUNK = {_PLAIN: struct.Struct("<32sI"), _PACKED: struct.Struct("<32sII")}
_BLOCK = 256 * 1024  # bytes hashed at a time: its sums stay in the processor's cache
_WINDOW = 32  # bytes that a hash sees

Numbers = npt.NDArray[np.uint32]
# Part of the format: whoever cuts a file that they have has to cut where the publisher did.
GEAR: Numbers = np.array(
    [int.from_bytes(hashlib.sha256(b"edgeward gear " + bytes([byte])).digest()[:4], "little") for byte in range(256)],
    np.uint32,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Of chunks in bytes. `least` is 32 or more, what the hash sees. The last chunk of a file may be shorter."""

    least: int
    average: int
    most: int

    @property
    def threshold(self) -> int:
        """Hashes below it are cuts: one in (average - least), which is how far behind `least` the first one then is."""
        return 2**32 // (self.average - self.least)


SIZES = Sizes(least=64 * 1024, average=256 * 1024, most=1024 * 1024)


@dataclass(frozen=True, slots=True)
class Chunk:
    offset: int  # in the file
    length: int
    digest: str  # sha256:HEX
    packed: tuple[int, int] | None = None  # where it is in the blob of packed chunks: offset, length


# By the digest of the file, in the order of its bytes.
Index = Mapping[str, tuple[Chunk, ...]]
# The bytes from one place of a file up to another.
Read = Callable[[int, int], bytes | memoryview]


def split(
    data: bytes | memoryview, *, sizes: Sizes = SIZES, told: Callable[[int], object] = lambda _done: None
) -> tuple[Chunk, ...]:
    """The chunks of a file's bytes, which may be a map of the file. `told` hears how many bytes are done."""
    view = memoryview(data)
    return tuple(split_read(lambda start, end: view[start:end], len(view), sizes=sizes, told=told))


def split_read(
    read: Read, size: int, *, sizes: Sizes = SIZES, told: Callable[[int], object] = lambda _done: None
) -> Iterator[Chunk]:
    """The same of what is read piece by piece, each at most a chunk long: a disk that fails is an OSError of `read`, where
    a map would end the process."""
    start = 0
    for end in _ends(read, size, sizes):
        digest = hashlib.sha256(read(start, end)).hexdigest()
        yield Chunk(start, end - start, f"sha256:{digest}")
        start = end
        told(end)


def _ends(read: Read, total: int, sizes: Sizes) -> Iterator[int]:
    """Where chunks end, rising, the last one at the end of the data."""
    start = 0
    places = _places(read, total, sizes.threshold)
    place = next(places, total)
    while start < total:
        while place - start < sizes.least and place < total:
            place = next(places, total)
        # The end of the data is an end, however near; so is what is far enough from the last one.
        start = min(place, start + sizes.most, total)
        yield start


def _places(read: Read, total: int, threshold: int) -> Iterator[int]:
    """Where the content allows a cut, rising: the number of bytes before it."""
    for block in range(0, total, _BLOCK):
        first = max(block - _WINDOW + 1, 0)
        data = read(first, min(block + _BLOCK, total))
        found = np.flatnonzero(_hashes(np.frombuffer(data, np.uint8)) < threshold)
        yield from (first + 1 + place for place in found.tolist() if first + place >= block)


def _hashes(data: npt.NDArray[np.uint8]) -> Numbers:
    """uint8 [n] -> uint32 [n], h(i) of the bytes up to each."""
    sums = GEAR[data]
    shift = 1
    while shift < _WINDOW and shift < len(sums):
        # sums[i] covers `shift` bytes; with those before them, twice as many.
        earlier = sums[:-shift] << np.uint32(shift)
        sums[shift:] += earlier
        shift *= 2
    return sums


def dumps(index: Index) -> bytes:
    """Files with fewer than two chunks are left out. b"" if that leaves none. Either all chunks are packed or none."""
    kept = listed(index)
    if not kept:
        return b""
    form = _PACKED if any(chunk.packed for chunks in kept.values() for chunk in chunks) else _PLAIN
    parts = [_HEAD.pack(_MAGIC, form, len(kept))]
    for digest, chunks in kept.items():
        parts.append(_FILE.pack(_raw(digest), chunks[-1].offset + chunks[-1].length, len(chunks)))
        for chunk in chunks:
            packed = (chunk.packed[1],) if chunk.packed else ()
            parts.append(_CHUNK[form].pack(_raw(chunk.digest), chunk.length, *packed))
    return b"".join(parts)


def listed(index: Index) -> dict[str, tuple[Chunk, ...]]:
    """The files that an index has, in its order: those of several chunks."""
    return {digest: chunks for digest, chunks in sorted(index.items()) if len(chunks) > 1}


def loads(text: bytes) -> dict[str, tuple[Chunk, ...]]:
    """What `dumps` made. Refusal BadChunks (step Verify, permanent) for anything else; a file's chunks have no gaps."""
    if len(text) > MAX_CHUNKS_BYTES:
        raise _bad(f"{len(text)} bytes, the limit is {MAX_CHUNKS_BYTES}")
    if len(text) < _HEAD.size:
        raise _bad("it ends too early")
    magic, form, files = _HEAD.unpack_from(text)
    if magic != _MAGIC or form not in _CHUNK:
        raise _bad(f"wanted format {_PLAIN} or {_PACKED}")
    index: dict[str, tuple[Chunk, ...]] = {}
    position = _HEAD.size
    entry, packed_at = _CHUNK[form], 0
    for _ in range(files):
        if position + _FILE.size > len(text):
            raise _bad("it ends too early")
        raw, size, count = _FILE.unpack_from(text, position)
        position += _FILE.size
        if position + count * entry.size > len(text):
            raise _bad("it ends too early")
        chunks = []
        offset = 0
        for digest, length, *packed in entry.iter_unpack(text[position : position + count * entry.size]):
            # A packed one has a byte more at most: it says that it is not packed.
            if not 0 < length <= SIZES.most or not all(0 < one <= length + 1 for one in packed):
                raise _bad(f"a chunk of {length} bytes")
            place = (packed_at, packed[0]) if packed else None
            packed_at += packed[0] if packed else 0
            chunks.append(Chunk(offset, length, f"sha256:{digest.hex()}", place))
            offset += length
        name = f"sha256:{raw.hex()}"
        if offset != size or name in index:
            raise _bad(f"the chunks of {name} have {offset} bytes of {size}, or it is there twice")
        index[name] = tuple(chunks)
        position += count * entry.size
    if position != len(text):
        raise _bad("something follows it")
    return index


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))


def _bad(text: str) -> Refusal:
    return Refusal(step="Verify", reason="BadChunks", message=f"the chunk index: {text}", permanent=True)
