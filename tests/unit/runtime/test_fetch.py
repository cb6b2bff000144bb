from __future__ import annotations

import itertools
import os
import socket
import time

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import Limits, fetch
from edgeward_runtime.store import Store
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

CONTENT = os.urandom(700_000)


@pytest.fixture
def source():
    with serving() as one:
        one.files["/m.onnx"] = CONTENT
        yield one


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def get(store, *sources, wanted=CONTENT, shunned=None, cancelled=bool, clock=time.monotonic, access=None, **limits):
    entry = Entry(name="m", version="1", digest=digest(wanted), sources=sources)
    allowed = Limits(**{"max_bytes": 1 << 30, "timeout_seconds": 5.0, "total_seconds": 60.0, **limits})
    shunned = {} if shunned is None else shunned
    fetched = fetch(
        entry, store=store, limits=allowed, cancelled=cancelled, shunned=shunned, clock=clock, access=access,
        sleep=lambda _seconds: None, jitter=lambda: 0.5,
    )  # fmt: skip
    assert fetched.path.read_bytes() == wanted
    return fetched.received


def left(store) -> list[str]:
    """Names in the folder of halves."""
    partial = store.root / "partial"
    return sorted(path.name for path in partial.iterdir()) if partial.exists() else []


def refused(store, *sources, keeps=0, **options):
    """`keeps`: bytes that wait for the next try, None for any number."""
    wanted = digest(options.get("wanted", CONTENT))
    with pytest.raises(Refusal) as caught:
        get(store, *sources, **options)
    assert store.verified(wanted) is None
    name = wanted.removeprefix("sha256:")
    if keeps is not None:
        assert left(store) == ([name, f"{name}.json"] if keeps else [])
        assert not keeps or (store.root / "partial" / name).stat().st_size == keeps
    return caught.value


def dead_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}/m.onnx"


def test_http(store, source):
    assert get(store, source.url("/m.onnx")) == len(CONTENT)
    assert store.verified(digest(CONTENT)).read_bytes() == CONTENT
    assert get(store, source.url("/m.onnx")) == 0 and len(source.requests) == 1


def test_file(store, tmp_path):
    path = tmp_path / "with space.onnx"
    path.write_bytes(CONTENT)
    assert get(store, path.as_uri()) == len(CONTENT)


def test_redirects_are_followed_but_not_to_files(store, source, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    source.redirects["/moved"] = source.url("/m.onnx")
    source.redirects["/trap"] = (tmp_path / "secret").as_uri()
    assert refused(store, source.url("/trap")).reason == "Unreachable"
    assert get(store, source.url("/moved")) == len(CONTENT)


def test_the_next_source_helps(store, source):
    assert get(store, dead_address(), source.url("/gone"), source.url("/m.onnx")) == len(CONTENT)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "Empty"), (b"other", "DigestMismatch"), (CONTENT[:-1], "DigestMismatch")]
)
def test_wrong_bytes_are_fetched_again_only_after_a_long_while(store, source, content, reason):
    source.files["/m.onnx"] = content
    shunned: dict = {}
    now = [1000.0]
    options = {"shunned": shunned, "clock": lambda: now[0]}
    for wait in (60, 120, 240, 480, 600, 600):
        refusal = refused(store, source.url("/m.onnx"), **options)
        assert (refusal.step, refusal.reason, refusal.permanent, refusal.after) == ("Verify", reason, False, wait)
        asked = len(source.requests)
        now[0] += wait - 1
        assert refused(store, source.url("/m.onnx"), **options).after == 1
        assert len(source.requests) == asked, "not yet"
        now[0] += 1
    source.files["/m.onnx"] = CONTENT
    assert get(store, source.url("/m.onnx"), **options) == len(CONTENT)


def test_wrong_bytes_at_one_source_and_none_at_the_other(store, source):
    source.files["/m.onnx"] = b"other"
    shunned: dict = {}
    refusal = refused(store, source.url("/m.onnx"), source.url("/gone"), shunned=shunned)
    assert refusal.reason == "DigestMismatch" and not refusal.permanent
    assert refusal.after is None, "the other one is asked again soon"
    source.files["/gone"] = CONTENT
    assert get(store, source.url("/m.onnx"), source.url("/gone"), shunned=shunned) == len(CONTENT)
    assert source.requests.count("/m.onnx") == 1


def test_missing_is_tried_again(store, source, tmp_path):
    for address in (source.url("/gone"), (tmp_path / "gone").as_uri(), tmp_path.as_uri(), "file:///dev/zero"):
        refusal = refused(store, address)
        assert (refusal.step, refusal.reason, refusal.permanent) == ("Fetch", "NotFound", False)


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "Unreachable"), (503, "Unreachable"), (403, "Unauthorized"), (401, "Unauthorized")]
)
def test_a_server_in_trouble_is_tried_again(store, source, status, reason):
    source.status = status
    refusal = refused(store, source.url("/m.onnx"))
    assert refusal.reason == reason and not refusal.permanent and str(status) in refusal.message


def test_nobody_there(store):
    assert refused(store, dead_address()).reason == "Unreachable"


def test_a_connection_that_ends_early_is_no_mismatch(store, source):
    source.cut_after = 300_000
    refusal = refused(store, source.url("/m.onnx"), keeps=300_000)
    assert refusal.reason == "Unreachable" and not refusal.permanent and "300000 of 700000" in refusal.message


def test_a_source_that_stalls(store, source):
    source.stall_at = 100_000
    assert refused(store, source.url("/m.onnx"), timeout_seconds=0.2, keeps=100_000).reason == "Unreachable"


def test_a_source_that_dribbles(store, source):
    seconds = itertools.count()
    message = refused(store, source.url("/m.onnx"), clock=lambda: float(next(seconds)), total_seconds=0.5).message
    assert "not done after" in message


def test_too_large_announced_or_not(store, source, tmp_path):
    (tmp_path / "m").write_bytes(CONTENT)
    for address in (source.url("/m.onnx"), (tmp_path / "m").as_uri()):
        refusal = refused(store, address, max_bytes=1000)
        assert refusal.reason == "TooLarge" and refusal.permanent


def test_a_scheme_of_later(store):
    for address in ("ftp://models.example.com/m", "oci://registry.example.com/UPPER", "s3://bucket", "http://[bad/m"):
        refusal = refused(store, address)
        assert refusal.reason == "UnsupportedSource" and refusal.permanent


def test_a_change_of_mind_stops_the_download(store, source):
    source.chunk, source.seconds_per_chunk = 10_000, 0.05
    asked = iter([False, False])
    with pytest.raises(Cancelled):
        get(store, source.url("/m.onnx"), cancelled=lambda: next(asked, True))
    assert store.verified(digest(CONTENT)) is None


def test_messages_hold_no_secret(store, source):
    address = source.url("/gone?token=s3cret").replace("http://", "http://user:passw0rd@")
    message = refused(store, address).message
    assert "s3cret" not in message and "passw0rd" not in message and "/gone" in message


def test_a_damaged_blob_is_fetched_again(store, source):
    get(store, source.url("/m.onnx"))
    path = store.blob_path(digest(CONTENT))
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert get(store, source.url("/m.onnx")) == len(CONTENT)
    assert store.verified(digest(CONTENT)) is not None
