"""Reading a ring from outside, while it is written: for uploads to come, for tests, for a look with Python.

for record in records(Path("store/capture/shop/reader")):
    record.header["classes"], record.label, record.tensors.get("inputs/image")
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from edgeward_runtime.capture.record import decode
from edgeward_runtime.capture.ring import FILE
from edgeward_runtime.tensors import Array

_AT_ONCE = 16  # records a transaction: a reader that holds one open keeps the log from being cut back


@dataclass(frozen=True, slots=True)
class Record:
    """`key` names it in its ring for ever, larger ones are more important, then newer."""

    key: int
    at_ms: int
    header: Mapping[str, Any]
    tensors: Mapping[str, Array]  # "inputs/NAME", "outputs/NAME"
    label: Any  # one class for each row, None = nobody has told


def records(folder: Path, *, after: int = -1) -> Iterator[Record]:
    """By key, from the one after `after` on. sqlite3.Error if there is no ring, ValueError for a damaged record."""
    query = (
        "SELECT r.key, r.at, r.body, l.label FROM records r LEFT JOIN labels l ON l.id = r.id"
        " WHERE r.key > ? ORDER BY r.key LIMIT ?"
    )
    with _reading(folder) as db:
        while _begun(db) and (some := db.execute(query, (after, _AT_ONCE)).fetchall()):
            for key, at, body, label in some:
                decoded = decode(body)
                yield Record(key, at, decoded.header, decoded.tensors, None if label is None else orjson.loads(label))
            after = some[-1][0]


def sketches(folder: Path) -> Iterator[tuple[str, str, int, Mapping[str, Any]]]:
    """(model, digest, unix milliseconds, histograms as in reference.json), oldest first."""
    with _reading(folder) as db:
        query = "SELECT model, digest, at, body FROM sketches ORDER BY at"
        rows = db.execute(query).fetchall() if _begun(db) else []
    for model, digest, at, body in rows:
        yield model, digest, at, orjson.loads(body)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, isolation_level=None)) as db:
        yield db


def _begun(db: sqlite3.Connection) -> bool:
    """Whether its tables are there; in the moment in which a ring is made they are not yet."""
    return bool(db.execute("PRAGMA user_version").fetchone()[0])
