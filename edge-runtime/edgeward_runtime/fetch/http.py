"""GET over http and https: redirects, ranges, refusals."""

from __future__ import annotations

import email.utils
import http.client
import math
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import bounded, refusals
from edgeward_runtime.fetch.access import Access
from edgeward_runtime.fetch.credentials import Login
from edgeward_runtime.fetch.refusals import shown, unreachable
from edgeward_runtime.fetch.source import NoParts, Opened, Source, source_id
from edgeward_runtime.store.partial import Origin

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 8
_MAX_RETRY_AFTER = 600.0  # seconds; what a source asks for beyond it would hold up a release for nothing
_NUMBER = r"[0-9]{1,18}"  # int() takes other digits too, and refuses thousands of them
_CONTENT_RANGE = re.compile(rf"bytes ({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)")


class Client:
    """timeout: seconds for a connect or one read. total: for a request with its redirects and all of its answer.
    `cancelled` is asked at each read and ends the request with Cancelled. direct: through no proxy, following no
    redirect."""

    def __init__(
        self,
        *,
        timeout: float,
        ca_bundle: Path | None = None,
        total: float = math.inf,
        cancelled: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
        direct: bool = False,
    ) -> None:
        self._direct = direct
        self._timeout = timeout
        self._ca_bundle = ca_bundle
        self._total = total
        self._cancelled = cancelled
        self._clock = clock
        self._openers: dict[str, urllib.request.OpenerDirector] = {}  # by scheme

    @contextmanager
    def request(
        self,
        address: str,
        *,
        headers: Mapping[str, str],
        private: Mapping[str, str] | None = None,
        data: bytes | None = None,
        method: str | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, whatever its status. `method` is GET, or POST with `data`, unless it is given. Redirects of what
        has no data are followed. `private` headers are credentials: they go to the address's own scheme, host and port
        and nowhere else. Refusal Unreachable if nobody answers."""
        here, secret = address, dict(private or {})
        bound = bounded.Bound(total=self._total, wanted=self._wanted, clock=self._clock, begun=self._clock())
        for _ in range(_MAX_REDIRECTS):
            response = self._open(here, {**headers, **secret}, data, address, method, bound)
            with response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location or data is not None or self._direct:
                    yield response
                    return
            try:
                there = urllib.parse.urljoin(here, location)
            except ValueError as error:
                raise unreachable(address, f"redirects to what is no address: {error}") from None
            if not there.startswith(("http://", "https://")):
                raise unreachable(address, "redirects to an address that is not http or https")
            if origin(there) != origin(here):
                secret = {}
            here = there
        raise unreachable(address, f"redirects more than {_MAX_REDIRECTS} times")

    def _wanted(self) -> None:
        if self._cancelled():
            raise Cancelled

    def _open(
        self,
        address: str,
        headers: Mapping[str, str],
        data: bytes | None,
        asked: str,
        method: str | None,
        bound: bounded.Bound,
    ) -> http.client.HTTPResponse:
        try:
            # identity: the digest is that of the file, not of a compressed transfer.
            fixed = {"Accept-Encoding": "identity", "User-Agent": "edgeward-runtime"}
            request = bounded.Request(address, headers={**fixed, **headers}, data=data, method=method)
            request.bound = bound
            scheme = request.type
            if scheme not in self._openers:
                self._openers[scheme] = self._opener(scheme)
            return self._openers[scheme].open(request, timeout=self._timeout)  # type: ignore[no-any-return]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(asked, refusals.reason_text(error)) from None

    def _opener(self, scheme: str) -> urllib.request.OpenerDirector:
        """Not build_opener(): every status is answered, and nothing but http and https is ever opened."""
        opener = urllib.request.OpenerDirector()
        opener.add_handler(urllib.request.ProxyHandler({} if self._direct else None))
        # Reading the system's certificates takes 30 ms, so plain http does without.
        handler = bounded.HttpHandler() if scheme == "http" else bounded.HttpsHandler(context=self._tls())
        opener.add_handler(handler)
        return opener

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_bundle is not None:
            try:
                context.load_verify_locations(self._ca_bundle)
            except OSError as error:  # ssl.SSLError is one
                raise OSError(f"the CA bundle cannot be read: {error.strerror or error}") from None
        return context


def origin(address: str) -> tuple[str, str, int]:
    parts = urllib.parse.urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or {"http": 80, "https": 443}[parts.scheme]


def refused(source: str, response: http.client.HTTPResponse) -> Refusal:
    """What an answer that brings no bytes means."""
    status = response.status
    if status in (404, 410):
        return refusals.refusal("NotFound", f"{shown(source)} answers {status}")
    if status in (401, 403):
        return refusals.refusal("Unauthorized", f"{shown(source)} answers {status}")
    found = unreachable(source, f"answers {status}")
    return Refusal(
        step=found.step,
        reason=found.reason,
        message=found.message,
        permanent=False,
        after=retry_after(response.headers),
    )


def retry_after(headers: Message) -> float | None:
    """Seconds that the source asks to be left alone, at most 10 minutes. A date is held against the date of the answer
    itself: our own clock may be wrong."""
    text = headers.get("Retry-After", "").strip()
    if (seconds := _number(text)) is not None:
        return min(float(seconds), _MAX_RETRY_AFTER)
    try:
        then = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return min(max(0.0, (then - now).total_seconds()), _MAX_RETRY_AFTER)
    except (ValueError, TypeError):
        return None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(_NUMBER, text) else None


def range_headers(address: str, offset: int, origin: Origin) -> dict[str, str]:
    """Asks for what is missing. If-Range holds the source to the version that the bytes before came from; other sources
    of the same digest have no common mark, there the hash at the end tells."""
    if not offset:
        return {}
    headers = {"Range": f"bytes={offset}-"}
    if origin.source == source_id(address):
        # A weak ETag says that two files mean the same, not that they are the same bytes.
        strong = origin.etag if origin.etag and not origin.etag.startswith("W/") else None
        if mark := strong or origin.modified:
            headers["If-Range"] = mark
    return headers


def opened(source: str, response: http.client.HTTPResponse, offset: int) -> Opened | None:
    """The answer to a GET that may have asked for a range. None: the range cannot be had, the whole file may. Refusal
    for any other answer than the bytes."""
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    if response.status == 200:
        total = _number(response.headers.get("Content-Length", ""))
        return Opened(reader=response, offset=0, total=total, etag=etag, modified=modified)
    if not offset:
        raise refused(source, response)
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != offset:
            return None
        total = None if found[3] == "*" else int(found[3])
        return Opened(reader=response, offset=offset, total=total, etag=etag, modified=modified)
    if response.status in (412, 416):
        return None
    raise refused(source, response)


def part_headers(start: int, end: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{end - 1}"}


def opened_part(source: str, response: http.client.HTTPResponse, start: int) -> Opened:
    """The answer to a GET with part_headers(). NoParts if it is the whole file or another part."""
    if response.status in (200, 412, 416):
        raise NoParts
    if response.status != 206:
        raise refused(source, response)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != start:
        raise NoParts
    return Opened(reader=response, offset=start, total=None if found[3] == "*" else int(found[3]))


def source(address: str, *, client: Client, access: Access) -> Source:
    """An http or https address, with the login of its user part or else of the mounted Secrets."""
    plain, private = _split_login(address, access)

    @contextmanager
    def open_(offset: int, origin: Origin) -> Iterator[Opened]:
        for start in dict.fromkeys((offset, 0)):
            with client.request(plain, headers=range_headers(address, start, origin), private=private) as response:
                answer = opened(address, response, start)
                if answer is not None:
                    yield answer
                    return
        raise unreachable(address, "gives neither the rest nor the whole")

    @contextmanager
    def part(start: int, end: int) -> Iterator[Opened]:
        with client.request(plain, headers=part_headers(start, end), private=private) as response:
            yield opened_part(address, response, start)

    def size() -> int | None:
        """Asked without a body: a server that knows no ranges would send the whole file."""
        with client.request(plain, headers={}, private=private, method="HEAD") as response:
            ranges = response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
            return _number(response.headers.get("Content-Length", "")) if response.status == 200 and ranges else None

    return Source(address=address, open=open_, part=part, size=size)


def _split_login(address: str, access: Access) -> tuple[str, dict[str, str]]:
    """The address without user and password, which urllib would take for part of the port, and these as a header."""
    parts = urllib.parse.urlsplit(address)
    user, found, host = parts.netloc.rpartition("@")
    if found:
        name, _, password = user.partition(":")
        login = Login(user=urllib.parse.unquote(name), password=urllib.parse.unquote(password))
    elif parts.scheme == "https":
        login = access.credentials.login(host, parts.path.strip("/")) or Login()
    else:
        login = Login()  # a Secret does not go over the wire in the open
    plain = urllib.parse.urlunsplit(parts._replace(netloc=host))
    return plain, {"Authorization": login.basic} if login.basic else {}
