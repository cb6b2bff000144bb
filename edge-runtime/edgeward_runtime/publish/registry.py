"""Writes to a repository of a registry (OCI distribution-spec, "Push"). What it has is not sent again, and an upload that
breaks goes on where the registry says that it is. Docker's own registry (2.8) says nothing of the kind when it broke within
a part: it forgets the upload, and the blob begins anew."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import orjson

from edgeward_runtime.artifact.build import digest_of
from edgeward_runtime.artifact.manifest import MAX_MANIFEST_BYTES, MEDIA_TYPE
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import http as web
from edgeward_runtime.fetch import refusals

_T = TypeVar("_T")
PART = 4 * 2**20  # bytes sent at a time; what a break costs at most
_LARGEST_PART = 64 * 2**20  # that a registry may ask for
_TRIES = 6  # in a row that bring no byte further
_LONGEST_WAIT = 30.0  # seconds
_MAX_ERROR = 64 * 1024  # bytes
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
# A tag of something else is not to be overwritten either.
_ANY = ", ".join(
    (
        MEDIA_TYPE,
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_OCTETS = {"Content-Type": "application/octet-stream"}
# Others than these say that the registry does not want it, and would not the next time.
_PASSING = (408, 416, 429, 500, 502, 503, 504)


class Repository(Protocol):
    """fetch.oci.Repository; its tests' stand-in."""

    address: str

    def ask(
        self, path: str, headers: Mapping[str, str], *, method: str | None = None, data: bytes | None = None
    ) -> AbstractContextManager[http.client.HTTPResponse]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """`content` is the bytes themselves, or the file they are in."""

    digest: str
    size: int
    content: bytes | Path

    def part(self, offset: int, size: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[offset : offset + size]
        with self.content.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@dataclass(kw_only=True)
class Counts:
    sent: int = 0  # bytes of blobs and manifests, those of broken tries included
    skipped: int = 0  # bytes that the registry had


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case


@dataclass
class Uploads:
    """told: hears how many bytes of a blob the registry has."""

    repository: Repository
    counts: Counts = field(default_factory=Counts)
    part: int = PART
    sleep: Callable[[float], None] = time.sleep

    def blob(self, blob: Blob, told: Callable[[int], object] = lambda _done: None) -> None:
        """Refusal if the registry does not take it."""
        answer, _ = self._patiently(lambda: self._ask(f"blobs/{blob.digest}", method="HEAD"))
        if answer.status == 200:
            self.counts.skipped += blob.size
            told(blob.size)
            return
        if answer.status != 404:
            raise self._refused(answer)
        failures = furthest = offset = 0
        location = ""
        while True:
            try:
                if not location:
                    location, offset = self._begin(), 0
                location, offset, done = self._send(blob, location, offset)
                told(offset)
                if done:
                    return
            except Refusal as refusal:
                failures += 1
                self._wait(refusal, failures)
                if location:
                    location, offset = self._status(location, blob)
            if offset > furthest:
                failures, furthest = 0, offset

    def tagged(self, tag: str) -> tuple[str, bytes] | None:
        """Digest and bytes of the manifest that a tag points to; None if there is no such tag."""
        answer, content = self._ask(f"manifests/{tag}", {"Accept": _ANY}, method="GET", limit=MAX_MANIFEST_BYTES)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._refused(answer, content)
        return digest_of(content), content

    def content(self, digest: str, *, size: int) -> bytes:
        """A small blob, held against its digest."""
        answer, content = self._ask(f"blobs/{digest}", method="GET", limit=size)
        if answer.status != 200:
            raise self._refused(answer, content)
        if digest_of(content) != digest:
            raise refusals.mismatch(self.repository.address, f"gives other bytes for {digest}")
        return content

    def manifest(self, content: bytes, *, reference: str) -> None:
        """Under a tag, or its digest. The blobs have to be there."""

        def put() -> None:
            self.counts.sent += len(content)
            headers = {"Content-Type": MEDIA_TYPE}
            answer, text = self._ask(f"manifests/{reference}", headers, method="PUT", data=content)
            if answer.status != 201:
                raise self._refused(answer, text)

        self._patiently(put)

    def _patiently(self, work: Callable[[], _T]) -> _T:
        failures = 0
        while True:
            try:
                return work()
            except Refusal as refusal:
                failures += 1
                self._wait(refusal, failures)

    def _wait(self, refusal: Refusal, failures: int) -> None:
        """After so many in a row that brought nothing. Raises the refusal if there is nothing to wait for."""
        if refusal.permanent or failures >= _TRIES:
            raise refusal
        self.sleep(min(refusal.after or 2.0 ** (failures - 1), _LONGEST_WAIT))

    def _begin(self) -> str:
        answer, text = self._ask("blobs/uploads/", method="POST", data=b"")
        location = answer.headers.get("location", "")
        if answer.status != 202 or not location:
            raise self._refused(answer, text)
        least = answer.headers.get("oci-chunk-min-length", "")
        if least.isdigit():
            self.part = min(max(self.part, int(least)), _LARGEST_PART)
        return location

    def _send(self, blob: Blob, location: str, offset: int) -> tuple[str, int, bool]:
        """The next part, or the end. -> where to go on, the bytes that are there, whether that is all."""
        if offset == 0 and blob.size <= self.part:
            return self._finish(blob, location, blob.part(0, blob.size))
        if offset >= blob.size:
            return self._finish(blob, location, b"")
        data = blob.part(offset, self.part)
        headers = {**_OCTETS, "Content-Range": f"{offset}-{offset + len(data) - 1}"}
        self.counts.sent += len(data)
        answer, text = self._ask(location, headers, method="PATCH", data=data)
        if answer.status not in (202, 201, 204):
            raise self._refused(answer, text, forgotten=answer.status == 404)
        return answer.headers.get("location", location), self._reached(answer, offset + len(data), blob), False

    def _finish(self, blob: Blob, location: str, data: bytes) -> tuple[str, int, bool]:
        self.counts.sent += len(data)
        target = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
        answer, text = self._ask(target, _OCTETS, method="PUT", data=data)
        if answer.status != 201:
            raise self._refused(answer, text, forgotten=answer.status == 404)
        return location, blob.size, True

    def _status(self, location: str, blob: Blob) -> tuple[str, int]:
        """How far a broken upload is. One that the registry knows no more, or has nothing of, begins anew: no location."""
        try:
            answer, _ = self._ask(location, method="GET")
        except Refusal:
            return "", 0
        reached = self._reached(answer, 0, blob)
        if answer.status != 204 or not reached:
            return "", 0
        return answer.headers.get("location", location), reached

    @staticmethod
    def _reached(answer: _Answer, otherwise: int, blob: Blob) -> int:
        """Range: 0-99 means 100 bytes. 0-0 means one byte, or, in some registries, none: it is taken for none."""
        found = _RANGE.fullmatch(answer.headers.get("range", ""))
        if found is None:
            return otherwise
        last = int(found[1])
        return min(last + 1, blob.size) if last else 0

    def _ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str,
        data: bytes | None = None,
        limit: int = _MAX_ERROR,
    ) -> tuple[_Answer, bytes]:
        with self.repository.ask(path, headers or {}, method=method, data=data) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            try:
                text = response.read(limit)
            except (OSError, http.client.HTTPException) as error:
                raise refusals.unreachable(self.repository.address, refusals.reason_text(error)) from None
            if response.status in (401, 403, *_PASSING):
                refusal = web.refused(self.repository.address, response)
                raise self._with_text(refusal, text)
            return _Answer(status=response.status, headers=found), text

    def _refused(self, answer: _Answer, text: bytes = b"", *, forgotten: bool = False) -> Refusal:
        """forgotten: the registry knows this upload no more, another one may go."""
        message = f"{self.repository.address} answers {answer.status}"
        return self._with_text(refusals.refusal("Refused", message, permanent=not forgotten), text)

    @staticmethod
    def _with_text(refusal: Refusal, text: bytes) -> Refusal:
        """With what the registry says, and permanent if another try would only be another refusal."""
        try:
            errors = orjson.loads(text)["errors"]
            said = "; ".join(f"{one.get('code', '')} {one.get('message', '')}".strip() for one in errors)[:300]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            said = ""
        return Refusal(
            step="Publish",
            reason=refusal.reason,
            message=f"{refusal.message}: {said}" if said else refusal.message,
            permanent=refusal.permanent or refusal.reason == "Unauthorized",
            after=refusal.after,
        )
