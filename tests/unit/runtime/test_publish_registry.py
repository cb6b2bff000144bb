"""A registry that breaks off, forgets and refuses, in memory; the real one is in the integration tests."""

from __future__ import annotations

import contextlib
import io
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.artifact.build import digest_of
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch.refusals import unreachable
from edgeward_runtime.publish.registry import Blob, Uploads

PART = 10


class Response(io.BytesIO):
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        super().__init__(body)
        self.status = status
        self.headers = Message()
        for name, value in headers.items():
            self.headers[name] = value


class Registry:
    """`trouble` is asked before each request: (method, path, bytes of the body) -> how many bytes arrive before the
    connection breaks, a Response instead, or None for no trouble."""

    address = "oci://registry/models/m"

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.trouble: Callable[[str, str, int], int | Response | None] = lambda _method, _path, _size: None
        self.begin: dict[str, str] = {}

    @contextlib.contextmanager
    def ask(
        self, path: str, headers: Mapping[str, str], *, method: str | None = None, data: bytes | None = None
    ) -> Iterator[Any]:
        method = method or "GET"
        self.requests.append(f"{method} {path.partition('?')[0]}")
        trouble = self.trouble(method, path, len(data or b""))
        if isinstance(trouble, Response):
            yield trouble
            return
        if trouble is not None:
            if method == "PATCH":
                self.uploads[path] += (data or b"")[:trouble]
            raise unreachable(self.address, "connection reset")
        yield self._answer(path, headers, method, data)

    def _answer(self, path: str, headers: Mapping[str, str], method: str, data: bytes | None) -> Response:
        target, _, query = path.partition("?")
        kind, _, reference = target.partition("/")
        if method == "POST":
            location = f"upload-{len(self.requests)}"
            self.uploads[location] = b""
            return Response(202, {"Location": location, **self.begin})
        if kind == "manifests":
            if method == "PUT":
                assert data is not None
                self.manifests[reference] = data
                return Response(201, {})
            found = self.manifests.get(reference)
            return Response(200, {}, found) if found is not None else Response(404, {})
        if kind == "blobs":
            found = self.blobs.get(reference)
            return Response(200, {}, found) if found is not None else Response(404, {})
        if target not in self.uploads:
            return Response(404, {})
        there = self.uploads[target]
        if method == "PATCH":
            assert data is not None
            first, last = map(int, headers["Content-Range"].split("-"))
            if first != len(there) or last - first + 1 != len(data):
                return Response(416, {"Range": f"0-{len(there) - 1}"})
            self.uploads[target] = there = there + data
        if method == "PUT":
            content = there + (data or b"")
            digest = urllib.parse.parse_qs(query)["digest"][0]
            if digest_of(content) != digest:
                return Response(400, {}, b'{"errors": [{"code": "DIGEST_INVALID", "message": "other bytes"}]}')
            del self.uploads[target]
            self.blobs[digest] = content
            return Response(201, {})
        return Response(202 if method == "PATCH" else 204, {"Location": target, "Range": f"0-{max(len(there) - 1, 0)}"})


def blob(content: bytes) -> Blob:
    return Blob(digest=digest_of(content), size=len(content), content=content)


def uploads(registry: Registry, waits: list[float] | None = None) -> Uploads:
    return Uploads(registry, part=PART, sleep=(waits if waits is not None else []).append)


@given(st.binary(min_size=1, max_size=45))
def test_a_blob_arrives_once(content: bytes) -> None:
    registry = Registry()
    client = uploads(registry)
    told: list[int] = []
    client.blob(blob(content), told.append)
    assert registry.blobs == {digest_of(content): content}
    assert client.counts.sent == told[-1] == len(content)
    client.blob(blob(content), told.append)
    assert (client.counts.sent, client.counts.skipped, told[-1]) == (len(content), len(content), len(content))
    assert registry.requests[-1].startswith("HEAD")


def test_a_small_one_goes_in_one_request_and_a_file_is_read_by_part(tmp_path: Path) -> None:
    registry = Registry()
    client = uploads(registry)
    client.blob(blob(b"0123456789"))
    assert [request.partition(" ")[0] for request in registry.requests] == ["HEAD", "POST", "PUT"]
    (tmp_path / "file").write_bytes(bytes(range(35)))
    client.blob(Blob(digest=digest_of(bytes(range(35))), size=35, content=tmp_path / "file"))
    assert registry.blobs[digest_of(bytes(range(35)))] == bytes(range(35))
    assert sum(request.startswith("PATCH") for request in registry.requests) == 4


@given(st.data())
def test_wherever_it_breaks_what_arrived_is_not_sent_again(draw: st.DataObject) -> None:
    """Connections break at any byte of any part, in a row too, but not six times without a byte more."""
    content = bytes(range(100))
    registry = Registry()
    broken = begun = 0

    def trouble(method: str, path: str, size: int) -> int | None:
        nonlocal broken, begun
        if method != "PATCH" or broken >= 5 or not draw.draw(st.booleans()):
            return None
        broken += 1
        arrived = draw.draw(st.integers(0, size))
        # A registry says the same of one byte and of none.
        begun += len(registry.uploads[path]) + arrived <= 1
        return arrived

    registry.trouble = trouble
    client = uploads(registry)
    client.blob(blob(content))
    assert registry.blobs == {digest_of(content): content}
    assert sum(request.startswith("POST") for request in registry.requests) == 1 + begun
    assert client.counts.sent <= len(content) + broken * PART


def test_an_upload_that_the_registry_forgot_begins_anew() -> None:
    content = bytes(range(100))
    registry = Registry()

    def trouble(method: str, _path: str, _size: int) -> int | None:
        if method == "PATCH" and len(registry.requests) == 5:
            registry.uploads.clear()
        return None

    registry.trouble = trouble
    uploads(registry).blob(blob(content))
    assert registry.blobs == {digest_of(content): content}
    assert sum(request.startswith("POST") for request in registry.requests) == 2


def test_a_registry_that_stays_away_is_given_up_with_growing_waits() -> None:
    registry = Registry()
    registry.trouble = lambda method, _path, _size: None if method in ("HEAD", "POST", "GET") else 0
    waits: list[float] = []
    with pytest.raises(Refusal, match="connection reset"):
        uploads(registry, waits).blob(blob(bytes(100)))
    assert waits == [1, 2, 4, 8, 16]
    registry.trouble = lambda _method, _path, _size: 0
    with pytest.raises(Refusal, match="connection reset"):
        uploads(registry, waits).blob(blob(bytes(100)))
    assert waits[5:] == [1, 2, 4, 8, 16]


def test_a_registry_that_forgets_at_the_same_place_each_time_is_given_up() -> None:
    """It takes bytes every time, but never one further."""
    registry = Registry()

    def trouble(method: str, path: str, _size: int) -> int | None:
        if method == "PATCH" and len(registry.uploads.get(path, b"")) == 5 * PART:
            registry.uploads.clear()
            registry.uploads[path] = b""
            return 0
        return None

    registry.trouble = trouble
    waits: list[float] = []
    with pytest.raises(Refusal, match="connection reset"):
        uploads(registry, waits).blob(blob(bytes(100)))
    assert waits == [1, 2, 4, 8, 16]


def test_what_it_does_not_want_is_asked_once_and_says_why() -> None:
    registry = Registry()
    body = b'{"errors": [{"code": "DENIED", "message": "quota exceeded"}]}'
    registry.trouble = lambda method, _path, _size: Response(403, {}, body) if method == "POST" else None
    waits: list[float] = []
    with pytest.raises(Refusal, match="403: DENIED quota exceeded") as caught:
        uploads(registry, waits).blob(blob(b"x"))
    assert (caught.value.reason, caught.value.permanent, waits) == ("Unauthorized", True, [])
    registry.trouble = lambda _method, _path, _size: None
    with pytest.raises(Refusal, match="400: DIGEST_INVALID"):
        uploads(registry, waits).blob(Blob(digest=digest_of(b"y"), size=1, content=b"x"))
    assert waits == []


def test_it_may_ask_for_time_and_for_larger_parts() -> None:
    content = bytes(range(100))
    registry = Registry()
    registry.begin = {"OCI-Chunk-Min-Length": "40"}
    busy = iter([Response(429, {"Retry-After": "7"}), None])
    registry.trouble = lambda method, _path, _size: next(busy, None) if method == "PATCH" else None
    waits: list[float] = []
    uploads(registry, waits).blob(blob(content))
    assert waits == [7] and registry.blobs == {digest_of(content): content}
    assert sum(request.startswith("PATCH") for request in registry.requests) == 4


def test_tags() -> None:
    registry = Registry()
    client = uploads(registry)
    assert client.tagged("1") is None
    client.manifest(b"{}", reference="1")
    assert client.tagged("1") == (digest_of(b"{}"), b"{}")
    assert registry.manifests == {"1": b"{}"}
    assert client.counts.sent == 2
    answers = iter([503, 503])
    registry.trouble = lambda _method, _path, _size: (
        Response(status, {}) if (status := next(answers, None)) is not None else None
    )
    waits: list[float] = []
    uploads(registry, waits).manifest(b"[]", reference="2")
    assert (registry.manifests["2"], waits) == (b"[]", [1, 2])


def test_a_small_blob_is_held_against_its_digest() -> None:
    registry = Registry()
    registry.blobs[digest_of(b"abc")] = b"abx"
    with pytest.raises(Refusal, match=re.escape(f"other bytes for {digest_of(b'abc')}")):
        uploads(registry).content(digest_of(b"abc"), size=3)
