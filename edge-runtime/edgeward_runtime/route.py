"""Who else sees the requests of a stable version: a canary that answers a share of them, and versions that get copies.

The same request id goes to the same version as long as the canary is the same one, on every replica and after a
restart; a larger share keeps those that it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from edgeward_runtime.model import Model

_PARTS = 10_000


class Split:
    """`percent` of the requests go to `canary`."""

    __slots__ = ("_below", "_salt", "canary", "percent")

    def __init__(self, canary: Model, percent: int) -> None:
        self.canary = canary
        self.percent = percent
        # Else the same clients would be the first to try every version.
        self._salt = crc32(canary.digest.encode())
        self._below = percent * _PARTS // 100

    def takes(self, request_id: str) -> bool:
        return crc32(request_id.encode("utf-8", "surrogatepass"), self._salt) % _PARTS < self._below


class Target:
    """A version that gets copies of `percent` of the requests."""

    __slots__ = ("_seen", "model", "percent")

    def __init__(self, model: Model, percent: int) -> None:
        self.model = model
        self.percent = percent
        self._seen = 0

    def takes_next(self) -> bool:
        """Evenly spread: of 100 requests in a row exactly `percent`."""
        self._seen += 1
        return self._seen * self.percent // 100 > (self._seen - 1) * self.percent // 100
