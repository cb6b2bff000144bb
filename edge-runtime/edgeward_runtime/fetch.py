"""Brings a model's file into the store: from its sources in order, hashed while it is written.

The digest makes every source equal and plain http safe. A source that answers with other bytes is asked again
only after a long while, each time a longer one: a login page in between or a half-copied file pass, and each try costs
a download. One that cannot be reached is asked again soon. Failures carry the reason that the agent shows.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import logging
import math
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.lifecycle import Shunned, long_backoff
from edgeward_runtime.store import Store

log = logging.getLogger(__name__)

_CHUNK = 256 * 1024  # bytes; also how often a change of mind is noticed
_SCHEMES = ("http", "https", "file")
# Which of several sources' reasons is the one to show: wrong bytes say more than a source that is away.
_WEIGHT = ("DigestMismatch", "Empty", "TooLarge", "NotFound", "Unreachable", "UnsupportedSource")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    max_bytes: int
    timeout_seconds: float  # for a connect or a read
    total_seconds: float  # for one attempt at one source


class Reader(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def fetch(
    entry: Entry,
    *,
    store: Store,
    limits: Limits,
    cancelled: Callable[[], bool],
    shunned: dict[str, Shunned],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Puts the entry's file into the store and answers the bytes fetched, 0 if another pod had done it.

    `shunned` remembers, over the attempts at one entry, the sources that gave wrong bytes and until when. Raises Refusal
    (permanent only if no source is ever to be asked again) or Cancelled.
    """
    with store.locked(entry.digest, cancelled=cancelled):
        if store.verified(entry.digest, cancelled=cancelled) is not None:
            return 0
        failures: list[Refusal] = []
        for source in entry.sources:
            before = shunned.get(source)
            if before is not None and clock() < before.until:
                continue
            try:
                return _from_source(source, entry.digest, store=store, limits=limits, cancelled=cancelled, clock=clock)
            except Refusal as refusal:
                log.warning(
                    "source failed",
                    extra={"source": _shown(source), "reason": refusal.reason, "error": refusal.message},
                )
                if refusal.reason in ("DiskFull", "StoreUnwritable"):
                    raise
                if refusal.permanent:
                    shunned[source] = Shunned(refusal, 1, math.inf)
                elif refusal.reason in ("DigestMismatch", "Empty"):
                    times = before.failures + 1 if before is not None else 1
                    shunned[source] = Shunned(refusal, times, clock() + long_backoff(times))
                else:
                    shunned.pop(source, None)
                    failures.append(refusal)
        every = [*failures, *(shunned[source].refusal for source in entry.sources if source in shunned)]
        worst = min(every, key=lambda refusal: _WEIGHT.index(refusal.reason))
        # Those that failed for now are asked soon, whatever the others are.
        first = 0.0 if failures else min(shunned[source].until for source in entry.sources)
        raise Refusal(
            step=worst.step,
            reason=worst.reason,
            message=worst.message,
            permanent=first == math.inf,
            after=None if failures or first == math.inf else max(0.0, first - clock()),
        )


def _from_source(
    source: str,
    digest: str,
    *,
    store: Store,
    limits: Limits,
    cancelled: Callable[[], bool],
    clock: Callable[[], float],
) -> int:
    with _opened(source, limits) as (reader, announced), store.writing(digest) as file:
        if announced is not None and announced > limits.max_bytes:
            raise _too_large(source, announced, limits)
        size, found = _copy(source, reader, file, limits=limits, cancelled=cancelled, clock=clock)
        if announced is not None and size < announced:
            raise _unreachable(source, f"connection ended after {size} of {announced} bytes")
        if size == 0:
            raise _refusal("Empty", f"{_shown(source)} has 0 bytes", step="Verify", permanent=False)
        if f"sha256:{found}" != digest:
            message = f"{_shown(source)} has sha256:{found}, wanted {digest}"
            raise _refusal("DigestMismatch", message, step="Verify", permanent=False)
    store.commit(digest)
    return size


def _copy(
    source: str,
    reader: Reader,
    file: BinaryIO,
    *,
    limits: Limits,
    cancelled: Callable[[], bool],
    clock: Callable[[], float],
) -> tuple[int, str]:
    """Copies to the end; answers the size and the sha256 in hex."""
    seen = hashlib.sha256()
    size = 0
    deadline = clock() + limits.total_seconds
    while True:
        try:
            chunk = reader.read1(_CHUNK)  # what is there, not waiting for a whole chunk
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(source, _reason_text(error)) from None
        if not chunk:
            return size, seen.hexdigest()
        size += len(chunk)
        if size > limits.max_bytes:
            raise _too_large(source, size, limits)
        if clock() > deadline:
            raise _unreachable(source, f"not done after {limits.total_seconds:g} s")
        if cancelled():
            raise Cancelled
        seen.update(chunk)
        file.write(chunk)


@contextmanager
def _opened(source: str, limits: Limits) -> Iterator[tuple[Reader, int | None]]:
    """The source's bytes and, if it says so, how many there are."""
    scheme = source.partition("://")[0]
    try:
        urllib.parse.urlsplit(source)
    except ValueError as error:
        raise _refusal("UnsupportedSource", f"{_shown(source)}: {error}", permanent=True) from None
    if scheme not in _SCHEMES:
        message = f"{_shown(source)}: this runtime fetches from {', '.join(_SCHEMES)}"
        raise _refusal("UnsupportedSource", message, permanent=True)
    if scheme == "file":
        with _open_file(source) as file:
            yield file, None
    else:
        with _open_http(source, limits) as response:
            length = response.headers.get("Content-Length", "")
            yield response, int(length) if length.isdigit() else None


def _open_file(source: str) -> BufferedReader:
    path = Path(urllib.parse.unquote(urllib.parse.urlsplit(source).path))
    try:
        if not path.is_file():  # a fifo or a device would block or never end
            raise FileNotFoundError
        return path.open("rb")
    except FileNotFoundError:
        raise _refusal("NotFound", f"{_shown(source)} is not there or no file", permanent=False) from None
    except OSError as error:
        raise _unreachable(source, error.strerror or str(error)) from None


def _open_http(source: str, limits: Limits) -> http.client.HTTPResponse:
    # Imported when first needed: ssl and urllib.request take 4 MB that a server with its model on disk never uses.
    import urllib.error
    import urllib.request

    opener = urllib.request.OpenerDirector()
    # Not build_opener(): a redirect must not lead to file: or ftp:.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        # identity: the digest is that of the file, not of a compressed transfer.
        address, authorization = _credentials(source)
        request = urllib.request.Request(
            address, headers={"Accept-Encoding": "identity", "User-Agent": "edgeward-runtime"}
        )
        if authorization:
            request.add_unredirected_header("Authorization", authorization)
        response = opener.open(request, timeout=limits.timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise _refusal("NotFound", f"{_shown(source)} answers {error.code}", permanent=False) from None
        raise _unreachable(source, f"answers {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(source, _reason_text(error)) from None
    if response is None:
        raise _unreachable(source, "redirects to an address that is not http or https")
    if response.status != 200:
        response.close()
        raise _unreachable(source, f"answers {response.status}")
    return response  # type: ignore[no-any-return]


def _credentials(source: str) -> tuple[str, str | None]:
    """The address without user and password, and these as a header; urllib would take them for part of the port."""
    parts = urllib.parse.urlsplit(source)
    user, found, host = parts.netloc.rpartition("@")
    if not found:
        return source, None
    token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), f"Basic {token}"


def _reason_text(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)[:300]


def _shown(source: str) -> str:
    """The address without user, password and query: those may be secrets, and messages end up in statuses."""
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError:
        return "an address that cannot be read"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _refusal(reason: str, message: str, *, step: str = "Fetch", permanent: bool) -> Refusal:
    return Refusal(step=step, reason=reason, message=message, permanent=permanent)


def _unreachable(source: str, text: str) -> Refusal:
    return _refusal("Unreachable", f"{_shown(source)}: {text}", permanent=False)


def _too_large(source: str, size: int, limits: Limits) -> Refusal:
    message = f"{_shown(source)} has {size} bytes or more, the limit is {limits.max_bytes}"
    return _refusal("TooLarge", message, permanent=True)
