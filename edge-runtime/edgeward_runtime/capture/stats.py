"""What became of captured requests, in plain integers: one thread writes each, the event loop reads them for /metrics
and GET /edgeward/v1/capture."""

from __future__ import annotations


class CaptureStats:
    def __init__(self) -> None:
        self.picked: dict[str, int] = {}  # requests that a rule chose, by its `when`
        self.kept = 0
        self.evicted = 0  # for what is more important or newer
        self.expired = 0
        self.dropped: dict[str, int] = {}  # picked and not kept, by reason
        self.failures: dict[str, int] = {}  # of the disk, by reason: each switched capture off for a while
        self.resets = 0  # rings begun anew because the file was damaged
        self.sketches = 0
        self.bytes = 0  # on disk now
        self.records = 0
        self.labels = 0
        self.off = ""  # why nothing is written now; empty: it is, or nothing is to be

    def drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def fail(self, reason: str) -> None:
        self.off = reason
        self.failures[reason] = self.failures.get(reason, 0) + 1
