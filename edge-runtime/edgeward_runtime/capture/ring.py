"""The ring on disk: a SQLite database in WAL mode with a bound on its bytes.

One file for a job's replicas on a node, which share the store's volume: the bound is then the node's, as the API says,
a label finds the answer of another replica, and what a replica that is gone has left is still in its place. SQLite
locks writers out of each other; they commit in batches, so that seldom one waits. The volume is of the node (a claim on
a node-local class, or the pod's own), where WAL's shared memory works; on a network file system it would not.

Bytes: `max_page_count` makes the database refuse to grow, and the log beside it is cut back before a transaction that
could take it over its share. So the files together never have more than max_bytes, at no moment. A key is priority and
sequence number in one integer, so that what goes first (the lowest priority, of it the oldest) lies side by side, and
its pages come free as wholes and are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from edgeward_runtime.capture.policy import Redaction

FILE = "ring.db"
FORMAT = 1  # PRAGMA user_version
PAGE = 4096
SMALLEST = 2**20  # max_bytes under which there is no ring
_SEQUENCE_BITS = 44  # 2^44 records, 500 years at a thousand a second; priority above them
_FRAME = PAGE + 24  # of the log: a page and its header
_SHM = 32 * 1024  # the log's index, for each 4096 frames
_BUSY_SECONDS = 5.0
_VICTIMS = 256  # records looked at in one go
_RECORD_OVERHEAD = 3 * PAGE  # what a record dirties beside its own bytes: leaves of the table and of two indexes
_SPLITS = 32 * PAGE  # what a transaction does: inner pages, the free list

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE records (key INTEGER PRIMARY KEY, id BLOB NOT NULL, at INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX record_ids ON records (id);
CREATE INDEX record_times ON records (at);
CREATE TABLE labels (id BLOB PRIMARY KEY, at INTEGER NOT NULL, label BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX label_times ON labels (at);
CREATE TABLE sketches (model TEXT, digest TEXT, host TEXT, at INTEGER, body BLOB,
                       PRIMARY KEY (model, digest, host, at)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Where max_bytes go."""

    max_bytes: int

    @property
    def log(self) -> int:
        """the write-ahead log"""
        return max(2**18, min(2**26, self.max_bytes // 8))

    @property
    def pages(self) -> int:
        """of the database itself"""
        index = _SHM * (1 + -(-self.log // (4096 * _FRAME)))
        return (self.max_bytes - self.log - index) // PAGE

    @property
    def batch(self) -> int:
        """bytes of records in one transaction, and of the largest record"""
        return self.log // 4

    @property
    def labels(self) -> int:
        return self.max_bytes // 4096

    @property
    def sketches(self) -> int:
        """bytes"""
        return self.max_bytes // 16


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    at_ms: int  # unix
    priority: int
    mode: Redaction
    body: bytes


@dataclass(frozen=True, slots=True)
class Added:
    """labelled: (id, label) of rows whose label was there before them."""

    kept: int = 0
    evicted: int = 0
    refused: int = 0  # less important than all that is there, or no longer allowed
    labelled: tuple[tuple[str, bytes], ...] = ()


class TooBusy(Exception):
    """A reader keeps the log from being cut back."""


class Ring:
    """For one thread. sqlite3.Error and OSError for what the disk does not do."""

    def __init__(self, folder: Path, *, max_bytes: int, mode: Redaction, revision: int, ttl_seconds: int) -> None:
        if max_bytes < SMALLEST:
            raise ValueError(f"a ring needs {SMALLEST} bytes")
        self.sizes = Sizes(max_bytes)
        self.path = folder / FILE
        self._mode = mode
        self._revision = revision
        self._ttl_seconds = ttl_seconds
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(folder):
            self._db = _open(self.path)
            try:
                if not self._usable():
                    self._db.close()
                    remove(folder)
                    self._db = _open(self.path)
                self._create()
            except BaseException:
                self._db.close()
                raise
        self._inode = self.path.stat().st_ino
        self._secret = self._meta_bytes("secret")
        self.shrink()

    def _usable(self) -> bool:
        """Whether what is there may stay: of our format, readable, and of no looser mode than ours. One that was kept
        under a looser one goes as a whole, with all its free pages: policy became stricter."""
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                return not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
            if version != FORMAT:
                return False
            revision, mode = int(self._meta("revision")), int(self._meta("mode"))
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            # The disk's failings are no reason to throw away what it holds; bytes that are no database are.
            if isinstance(error, sqlite3.OperationalError) and not _malformed(error):
                raise
            return False
        return mode <= self._mode or revision > self._revision

    def _create(self) -> None:
        db = self._db
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            db.execute(f"PRAGMA page_size = {PAGE}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # What is evicted or too old is gone from the file at once, not when its page is used again.
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA cache_size = -512")
        # A page that is written to the log before the commit may be there twice after it, which nobody has counted.
        db.execute("PRAGMA cache_spill = OFF")
        with self._writing(_SPLITS):
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.strip().rstrip(";").split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {FORMAT}")
                values = {
                    "secret": secrets.token_bytes(16),
                    "epoch": secrets.token_hex(8),
                    "sequence": 0,
                    "revision": self._revision,
                    "mode": int(self._mode),
                    "ttl": self._ttl_seconds,
                }
                db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
            elif int(self._meta("revision")) <= self._revision:
                self._set("revision", self._revision)
                self._set("mode", int(self._mode))
                self._set("ttl", self._ttl_seconds)

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    @property
    def current(self) -> bool:
        """Whether the file is still the one that was opened: another replica may have begun a new one."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    # -- meta -----------------------------------------------------------------------------------------------------

    def _meta(self, name: str) -> int | str:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        value: int | str = row[0] if row else 0
        return value

    def _meta_bytes(self, name: str) -> bytes:
        return bytes(self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def _set(self, name: str, value: int) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def key_of(self, request_id: str) -> bytes:
        """A client's id may say who the client is: it is kept as a hash with this ring's own secret."""
        return blake2b(request_id.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).digest()

    # -- writing --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self, most: int) -> Iterator[None]:
        """One transaction that dirties at most so many bytes of pages, with the log kept below its share."""
        for attempt in (1, 2):
            self._db.execute("BEGIN IMMEDIATE")
            # Nobody else writes now, so this is what the log has, and what it will have.
            if _size(self.path, "-wal") + most + (most // PAGE + 2) * 24 <= self.sizes.log:
                break
            self._db.execute("ROLLBACK")
            if attempt == 2:
                raise TooBusy
            self._checkpoint()
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _checkpoint(self) -> None:
        """The log's pages into the database, and the log cut to nothing, unless a reader needs it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def settle(self) -> None:
        """After a batch: keeps the log short, so that the next need not wait."""
        if _size(self.path, "-wal") > self.sizes.log // 2:
            self._checkpoint()

    def _free_pages(self) -> int:
        count = int(self._db.execute("PRAGMA page_count").fetchone()[0])
        free = int(self._db.execute("PRAGMA freelist_count").fetchone()[0])
        return self.sizes.pages - count + free

    def add(self, rows: Iterable[Row]) -> Added:
        """Keeps what is more important or newer than what has to go for it, all of a batch or none of it on a crash.
        The rows together must not be over sizes.batch, see `fits`."""
        total = Added()
        groups: dict[int, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.priority, []).append(row)
        for priority in sorted(groups, reverse=True):
            total = _plus(total, self._add(priority, groups[priority]))
        return total

    def fits(self, body_bytes: int) -> bool:
        return body_bytes + _RECORD_OVERHEAD + PAGE <= self.sizes.batch

    def _add(self, priority: int, rows: list[Row]) -> Added:
        dirtied = sum(footprint(len(row.body)) for row in rows)
        needed = (dirtied + _SPLITS) // PAGE
        evicted = self._evict(needed, up_to=priority)
        if self._free_pages() < needed:
            return Added(evicted=evicted, refused=len(rows))
        kept, refused, labelled = 0, 0, []
        with self._writing(dirtied + _SPLITS):
            # What another replica was told last holds, if that is newer than what we were told.
            mode = self._mode
            if int(self._meta("revision")) > self._revision:
                mode = Redaction(min(mode, int(self._meta("mode"))))
            sequence = int(self._meta("sequence"))
            for row in rows:
                if row.mode > mode:
                    refused += 1
                    continue
                sequence += 1
                kept += 1
                key = self.key_of(row.id)
                self._db.execute(
                    "INSERT INTO records VALUES (?, ?, ?, ?)",
                    (priority << _SEQUENCE_BITS | sequence, key, row.at_ms, row.body),
                )
                label = self._db.execute("SELECT label FROM labels WHERE id = ?", (key,)).fetchone()
                if label is not None:
                    labelled.append((row.id, bytes(label[0])))
            self._set("sequence", sequence)
        return Added(kept=kept, evicted=evicted, refused=refused, labelled=tuple(labelled))

    def _evict(self, pages: int, *, up_to: int) -> int:
        """Makes so many pages free, if records of that priority and below can; the number that went."""
        went = 0
        limit = (up_to + 1) << _SEQUENCE_BITS
        while (missing := pages - self._free_pages()) > 0:
            # Some more than needed, so that a full ring does not evict for every batch.
            gone = self._delete_first(missing + self.sizes.pages // 64, limit)
            went += gone
            if not gone:
                break
        return went

    def _delete_first(self, pages: int, limit: int) -> int:
        victims: list[int] = []
        dirtied = 0
        query = "SELECT key, length(body) FROM records WHERE key < ? ORDER BY key LIMIT ?"
        for key, size in self._db.execute(query, (limit, _VICTIMS)).fetchall():
            if victims and (dirtied + footprint(size) > self.sizes.batch or dirtied > pages * PAGE):
                break
            victims.append(key)
            dirtied += footprint(size)
        if victims:
            with self._writing(dirtied + _SPLITS):
                marks = "DELETE FROM records WHERE key <= ? AND key >= ?"
                went = self._db.execute(marks, (victims[-1], victims[0])).rowcount
            return int(went)
        return 0

    def label(self, request_id: str, label: bytes, *, at_ms: int) -> tuple[bytes | None, bytes | None]:
        """Keeps the label, over one that is there; answers that one, and the body of the answer's record. None each if
        there is none."""
        key = self.key_of(request_id)
        before = self._db.execute("SELECT label FROM labels WHERE id = ?", (key,)).fetchone()
        record = self._db.execute("SELECT body FROM records WHERE id = ? ORDER BY key DESC LIMIT 1", (key,)).fetchone()
        needed = footprint(len(label)) + _SPLITS
        # Labels are few bytes and cost somebody's time: they go before no record, but for their own number.
        self._evict(needed // PAGE, up_to=100)
        with self._writing(needed):
            if before is None:
                (count,) = self._db.execute("SELECT count(*) FROM labels").fetchone()
                if count >= self.sizes.labels:
                    oldest = "SELECT id FROM labels ORDER BY at LIMIT 1"
                    self._db.execute(f"DELETE FROM labels WHERE id IN ({oldest})")  # noqa: S608 no input in it
            self._db.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?)", (key, at_ms, label))
        return (bytes(before[0]) if before else None, bytes(record[0]) if record else None)

    def sketch(self, *, model: str, digest: str, host: str, at_ms: int, body: bytes) -> bool:
        """False for one that is too large to keep."""
        if len(body) > min(self.sizes.sketches // 4, self.sizes.batch):
            return False
        needed = footprint(len(body)) + _SPLITS
        self._evict(needed // PAGE, up_to=100)
        total = "SELECT coalesce(sum(length(body)), 0) FROM sketches"
        while self._db.execute(total).fetchone()[0] + len(body) > self.sizes.sketches:
            with self._writing(self.sizes.batch):
                oldest = "SELECT min(at) FROM sketches"
                self._db.execute(f"DELETE FROM sketches WHERE at = ({oldest})")  # noqa: S608 no input in it
        with self._writing(needed):
            self._db.execute(
                "INSERT OR REPLACE INTO sketches VALUES (?, ?, ?, ?, ?)", (model, digest, host, at_ms, body)
            )
        return True

    def expire(self, before_ms: int) -> int:
        """Drops what is older; the number of records that went."""
        went = 0
        while True:
            query = "SELECT key, length(body) FROM records WHERE at < ? ORDER BY at LIMIT ?"
            some: list[tuple[int]] = []
            dirtied = 0
            for key, size in self._db.execute(query, (before_ms, _VICTIMS)).fetchall():
                if some and dirtied + footprint(size) > self.sizes.batch:
                    break
                some.append((key,))
                dirtied += footprint(size)
            if not some:
                break
            with self._writing(dirtied + _SPLITS):
                self._db.executemany("DELETE FROM records WHERE key = ?", some)
            went += len(some)
        # A label's place in the table is its hash, so each is in pages of its own.
        for table, name, some_at_once in (
            ("labels", "id", self.sizes.batch // _RECORD_OVERHEAD),
            ("sketches", "at", 1),
        ):
            old = f"SELECT {name} FROM {table} WHERE at < ? ORDER BY at LIMIT ?"  # noqa: S608 no input in it
            while found := self._db.execute(old, (before_ms, some_at_once)).fetchall():
                with self._writing(self.sizes.batch):
                    self._db.executemany(f"DELETE FROM {table} WHERE {name} = ?", found)  # noqa: S608
        return went

    def shrink(self) -> None:
        """To the bound that is in force, which may be below that under which the file grew."""
        while self._free_pages() < 0 and self._delete_first(-self._free_pages(), (100 + 1) << _SEQUENCE_BITS):
            self.settle()
        step = self.sizes.batch // PAGE
        while int(self._db.execute("PRAGMA page_count").fetchone()[0]) > self.sizes.pages:
            before = int(self._db.execute("PRAGMA freelist_count").fetchone()[0])
            if not before:
                break
            with self._writing(self.sizes.batch):
                self._db.execute(f"PRAGMA incremental_vacuum({step})").fetchall()
        self._checkpoint()
        self._db.execute(f"PRAGMA max_page_count = {self.sizes.pages}")

    # -- looking --------------------------------------------------------------------------------------------------

    def bytes_on_disk(self) -> int:
        return sum(_size(self.path, suffix) for suffix in ("", "-wal", "-shm"))

    def counts(self) -> dict[str, int]:
        tables = ("records", "labels", "sketches")
        return {
            table: int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
            for table in tables
        }


def remove(folder: Path) -> None:
    """The ring with all that it holds. Another replica that has it open notices before it writes again."""
    for suffix in ("", "-wal", "-shm"):
        (folder / (FILE + suffix)).unlink(missing_ok=True)


def sweep(root: Path, *, keep: Path, now: float) -> None:
    """Removes the rings below root/NAMESPACE/JOB, but for one, that nobody has written to for longer than they keep
    anything: of jobs that have left this node, which no writer looks after."""
    for path in root.glob(f"*/*/{FILE}"):
        if path.parent == keep:
            continue
        with contextlib.suppress(sqlite3.Error, OSError, TypeError, ValueError):
            written = max(one.stat().st_mtime for one in path.parent.glob(f"{FILE}*"))
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                (ttl,) = db.execute("SELECT value FROM meta WHERE name = 'ttl'").fetchone()
            if now - written > int(ttl):
                remove(path.parent)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, cached_statements=32)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Against two replicas that begin a new ring at once."""
    descriptor = os.open(folder / "ring.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _malformed(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def footprint(size: int) -> int:
    """Bytes of pages that a record of so many bytes touches."""
    return -(-size // (PAGE - 4)) * PAGE + _RECORD_OVERHEAD


def _size(path: Path, suffix: str) -> int:
    try:
        return os.stat(f"{path}{suffix}").st_size
    except FileNotFoundError:
        return 0


def _plus(a: Added, b: Added) -> Added:
    return Added(a.kept + b.kept, a.evicted + b.evicted, a.refused + b.refused, a.labelled + b.labelled)
