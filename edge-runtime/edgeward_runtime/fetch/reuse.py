"""Which chunks of a file the store has already, in other versions of it or in whatever else is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from edgeward_runtime.artifact import chunks
from edgeward_runtime.artifact.chunks import Chunk, Sizes
from edgeward_runtime.errors import Cancelled
from edgeward_runtime.fetch.assembly import Place

log = logging.getLogger(__name__)

# Files are cut until so many times the wanted one's bytes were looked at: each costs a disk and a processor its time.
_MOST = 4
_PARTS = 128  # requests for one file, each a connection of its own


def chunks_here(
    wanted: Iterable[str],
    files: Iterable[Path],
    *,
    size: int,
    cancelled: Callable[[], bool],
    sizes: Sizes = chunks.SIZES,
) -> dict[str, Place]:
    """Where chunks of these digests are. `files`: the likeliest first; `size`: bytes of the file that is wanted. What is
    found was there a moment ago; whoever copies it compares it again."""
    left = set(wanted)
    found: dict[str, Place] = {}
    budget = _MOST * size

    def go_on(_done: int) -> None:
        if cancelled():
            raise Cancelled

    for path in files:
        if not left:
            break
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            length = os.fstat(descriptor).st_size
            if length > budget:
                continue  # the next may be smaller
            budget -= length

            def read(start: int, end: int, descriptor: int = descriptor) -> bytes:
                data = os.pread(descriptor, end - start, start)
                if len(data) != end - start:
                    raise OSError("the file has become shorter")
                return data

            for chunk in chunks.split_read(read, length, sizes=sizes, told=go_on):
                if chunk.digest in left:
                    left.remove(chunk.digest)
                    found[chunk.digest] = Place(path, chunk.offset)
        except OSError as error:
            log.warning("a file of the store cannot be read", extra={"file": path.name, "error": str(error)})
        finally:
            os.close(descriptor)
    return found


def worth(cut: Sequence[Chunk], here: Mapping[str, Place], *, most: int = _PARTS) -> dict[str, Place]:
    """What of `here` is used, so that what is missing of the file is at most `most` parts: of the runs between them the
    shortest are fetched too."""
    runs = [list(run) for local, run in groupby(cut, key=lambda chunk: chunk.digest in here) if local]
    kept = sorted(runs, key=lambda run: sum(chunk.length for chunk in run), reverse=True)[: most - 1]
    if len(kept) == len(runs):
        return dict(here)
    return {chunk.digest: here[chunk.digest] for run in kept for chunk in run}
