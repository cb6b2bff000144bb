"""Who may ask this server: those with a bearer token, with a certificate, or with both. Off unless settings say so, and
then off for nobody but the paths that they name as open.

The token comes from a file, one a line so that an old and a new one hold while clients change over; certificates from
files too (tls.py). Both are read again when the files change, as the kubelet changes those of a Secret.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

log = logging.getLogger(__name__)

# Settings' names for what a kubelet, a Prometheus and Edgeward's agent ask, who have neither token nor certificate.
HEALTH, METRICS, STATUS = "health", "metrics", "status"
OPEN_PATHS = {
    HEALTH: (
        "/v2/health/live",
        "/v2/health/ready",
        "/grpc.health.v1.Health/Check",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    ),
    METRICS: ("/metrics",),
    STATUS: ("/edgeward/v1/status",),
}
_LOOK_SECONDS = 1.0  # between two looks at the file
_MAX_FILE = 64 * 1024  # bytes


class Tokens:
    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """ValueError if the file holds no token, OSError if it cannot be read."""
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._stamp = stamp(path)
        self._tokens = _read(path)

    def match(self, authorization: bytes | None) -> bool:
        """Whether an Authorization header's value is `Bearer` and one of the tokens, in a time that says nothing of how
        much of it was right."""
        self._renew()
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        given = given.strip()
        found = [hmac.compare_digest(token, given) for token in self._tokens]
        return scheme.lower() == b"bearer" and any(found)

    def _renew(self) -> None:
        now = self._clock()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        seen = stamp(self._path)
        if seen == self._stamp:
            return
        self._stamp = seen
        try:
            self._tokens = _read(self._path)
            log.info("token file read again", extra={"tokens": len(self._tokens)})
        except (OSError, ValueError) as error:
            log.error("the token file cannot be read, the last tokens hold", extra={"error": str(error)})


class Guard:
    """`tokens`, `certificates`: what is asked for. `open_to`: names of OPEN_PATHS that need neither. `refused`: counts by
    HTTP status, for the metrics."""

    def __init__(
        self, *, tokens: Tokens | None, certificates: bool, refused: dict[int, int], open_to: Iterable[str] = ()
    ) -> None:
        self.certificates = certificates
        self._refused = refused
        self._tokens = tokens
        self._open = frozenset(path for name in open_to for path in OPEN_PATHS[name])

    def allows(self, path: str, *, authorization: bytes | None, certified: bool) -> bool:
        """`certified`: the client showed a certificate that was verified."""
        if path in self._open or self.trusts(authorization, certified=certified):
            return True
        self._refused[401] = self._refused.get(401, 0) + 1
        return False

    def trusts(self, authorization: bytes | None, *, certified: bool) -> bool:
        if self.certificates and not certified:
            return False
        return self._tokens is None or self._tokens.match(authorization)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file does; None while it is not there. A Secret's file is a link into a folder that is replaced
    as a whole, so the inode is what changes there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE)
    tokens = [line.strip() for line in content.splitlines() if line.strip()]
    if not tokens:
        raise ValueError("the file holds no token")
    return tokens
