"""Any order of breaks, lies and kills: never a wrong model, and the right one as soon as a source behaves."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import Limits
from edgeward_runtime.fetch.pace import Pace
from edgeward_runtime.fetch.source import Opened, Source
from edgeward_runtime.fetch.transfer import Job, Wanted, transfer
from edgeward_runtime.store import Store
from edgeward_runtime.store.partial import Origin

CONTENT = hashlib.sha256(b"model").digest() * 100
OTHER = hashlib.sha256(b"other").digest() * 100
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
LIMITS = Limits(max_bytes=10_000, timeout_seconds=1, total_seconds=1e9)


@dataclass(frozen=True)
class Answer:
    """One connection: which content, from where if a range is asked for, and after how many bytes it breaks."""

    content: bytes
    ranges: bool
    says_size: bool
    cut: int
    error: bool  # it breaks with an error, and not as if the file had ended


answers = st.builds(
    Answer,
    content=st.sampled_from([CONTENT, CONTENT, CONTENT, OTHER, CONTENT[:-1], CONTENT + b"x", b""]),
    ranges=st.booleans(),
    says_size=st.booleans(),
    cut=st.sampled_from([0, 1, 500, 1600, 3199, 10_000]),
    error=st.booleans(),
)
GOOD = Answer(content=CONTENT, ranges=True, says_size=True, cut=10_000, error=False)


class Broken(BytesIO):
    error = False

    def read1(self, size: int = -1, /) -> bytes:
        chunk = super().read1(min(size, 700))
        if not chunk and self.error:
            raise ConnectionResetError("reset")
        return chunk


def source(address: str, script: list[Answer]) -> Source:
    @contextlib.contextmanager
    def opened(offset: int, _origin: Origin) -> Iterator[Opened]:
        answer = script.pop(0) if script else GOOD
        start = offset if answer.ranges and offset < len(answer.content) else 0
        rest = answer.content[start:]
        reader = Broken(rest[: answer.cut])
        reader.error = answer.error and answer.cut < len(rest)
        yield Opened(reader=reader, offset=start, total=len(answer.content) if answer.says_size else None)

    return Source(address=address, open=opened)


@given(
    scripts=st.lists(st.tuples(st.sampled_from("ab"), st.lists(answers, max_size=4), st.integers(0, 12)), max_size=4),
    sized=st.booleans(),
)
def test_whatever_happens(scripts: list[tuple[str, list[Answer], int]], sized: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, script, patience in scripts:
            bring(Store(Path(folder)), source(name, list(script)), sized=sized, patience=patience)
        bring(Store(Path(folder)), source("c", []), sized=sized, patience=10_000)
        store = Store(Path(folder))
        path = store.find(DIGEST)
        assert path is not None and path.read_bytes() == CONTENT
        assert not list((store.root / "partial").iterdir())


def bring(store: Store, source: Source, *, sized: bool, patience: int) -> None:
    """One process's try, which ends by itself or after so many looks at whether to go on."""
    left = iter(range(patience))
    job = Job(
        store=store,
        limits=LIMITS,
        pace=Pace(0, clock=lambda: 0.0, sleep=lambda _s: None),
        cancelled=lambda: next(left, None) is None,
        clock=lambda: 0.0,
        sleep=lambda _s: None,
    )
    with contextlib.suppress(Cancelled, Refusal), store.locked(DIGEST, cancelled=bool):
        if store.find(DIGEST) is None:
            transfer(Wanted(digest=DIGEST, size=len(CONTENT) if sized else None), source, job)
    found = store.find(DIGEST)
    assert found is None or found.read_bytes() == CONTENT


def test_a_source_that_only_lies_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lies = source("a", [Answer(content=OTHER, ranges=True, says_size=True, cut=10_000, error=False)] * 3)
    job = Job(
        store=store,
        limits=LIMITS,
        pace=Pace(0, clock=lambda: 0.0, sleep=lambda _s: None),
        cancelled=bool,
        clock=lambda: 0.0,
    )
    with pytest.raises(Refusal) as caught, store.locked(DIGEST, cancelled=bool):
        transfer(Wanted(digest=DIGEST), lies, job)
    assert caught.value.reason == "DigestMismatch" and store.find(DIGEST) is None
