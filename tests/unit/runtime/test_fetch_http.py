"""Redirects, logins and what a source says about coming back later."""

from __future__ import annotations

import base64
import json
import logging
import os
from email.message import Message

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import Access, Credentials, FetchStats, Limits, StoreCollector, fetch, http
from edgeward_runtime.fetch.http import retry_after
from edgeward_runtime.store import Store
from edgeward_runtime.store.partial import Origin
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

CONTENT = os.urandom(50_000)
LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=5.0, total_seconds=60.0)
LOGIN = f"Basic {base64.b64encode(b'user:passw0rd').decode()}"


@pytest.fixture
def source():
    with serving() as one:
        one.files["/m.onnx"] = CONTENT
        yield one


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def get(store, *sources, shunned=None, clock=lambda: 1000.0, **options):
    entry = Entry(name="m", version="1", digest=digest(CONTENT), sources=sources)
    shunned = {} if shunned is None else shunned
    fetched = fetch(
        entry,
        store=store,
        limits=LIMITS,
        cancelled=bool,
        shunned=shunned,
        clock=clock,
        sleep=lambda _s: None,
        **options,
    )
    assert fetched.path.read_bytes() == CONTENT
    return fetched


def with_login(address: str) -> str:
    return address.replace("http://", "http://user:passw0rd@")


def logins(source) -> list[str | None]:
    return [headers.get("authorization") for headers in source.headers]


def test_a_login_stays_with_its_own_host(store, source):
    """A redirect to the same scheme, host and port keeps it; one to any other, and back from there, loses it."""
    with serving() as other:
        other.redirects["/away"] = source.url("/m.onnx")
        source.redirects["/here"] = source.url("/there")
        source.redirects["/there"] = other.url("/away")
        get(store, with_login(source.url("/here")))
        assert source.requests == ["/here", "/there", "/m.onnx"]
        assert logins(source) == [LOGIN, LOGIN, None] and logins(other) == [None]


def test_another_name_of_the_same_host_is_another_host(store, source):
    source.redirects["/here"] = source.url("/m.onnx").replace("127.0.0.1", "localhost")
    get(store, with_login(source.url("/here")))
    assert logins(source) == [LOGIN, None]


def test_a_mounted_login_does_not_go_over_the_wire_in_the_open(store, source, tmp_path):
    host = source.address.removeprefix("http://")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"username": "user", "password": "passw0rd"}}}))
    get(store, source.url("/m.onnx"), access=Access(credentials=Credentials(folder=tmp_path)))
    assert logins(source) == [None]


@pytest.mark.parametrize(
    ("address", "login"),
    [
        ("https://models.example.com/m.onnx", "Basic bTpwdw=="),
        ("https://models.example.com/team/m.onnx", "Basic dDpwdw=="),
        ("https://models.example.com:8443/m.onnx", None),
        ("http://models.example.com/m.onnx", None),
        ("https://u:p%40@models.example.com/m.onnx", "Basic dTpwQA=="),
    ],
)
def test_which_login_goes_to_a_server(tmp_path, address, login):
    auths = {"models.example.com": ("m", "pw"), "models.example.com/team": ("t", "pw")}
    config = {"auths": {at: {"username": user, "password": word} for at, (user, word) in auths.items()}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = []

    class Client(http.Client):
        def request(self, address, **options):
            asked.append((address, options))
            raise ConnectionError

    source = http.source(address, client=Client(timeout=1), access=Access(credentials=Credentials(folder=tmp_path)))
    with pytest.raises(ConnectionError), source.open(0, Origin()):
        pass
    ((plain, options),) = asked
    assert "@" not in plain and options["headers"] == {}
    assert options["private"] == ({"Authorization": login} if login else {})


@pytest.mark.parametrize("nowhere", ["http://[", "http://[::1", "http://", "http://h:port/", "ftp://h/m"])
def test_a_redirect_to_what_is_no_address_is_that_sources_failure(store, source, nowhere):
    source.redirects["/here"] = nowhere
    with pytest.raises(Refusal) as caught:
        get(store, source.url("/here"))
    assert caught.value.reason == "Unreachable"
    assert get(store, source.url("/here"), source.url("/m.onnx"))


def test_redirects_end(store, source):
    source.redirects["/round"] = source.url("/round")
    with pytest.raises(Refusal) as caught:
        get(store, source.url("/round"))
    assert caught.value.reason == "Unreachable" and len(source.requests) == 8


def test_no_secret_in_the_log_or_the_message(store, source, caplog):
    caplog.set_level(logging.DEBUG)
    source.status = 401
    with pytest.raises(Refusal) as caught:
        get(store, with_login(source.url("/m.onnx?token=s3cret")))
    seen = repr(caught.value) + "".join(repr(vars(record)) for record in caplog.records)
    assert "Unauthorized" in seen and "passw0rd" not in seen and "s3cret" not in seen


def test_a_source_is_left_alone_as_long_as_it_asks(store, source):
    source.status, source.answer_headers = 503, {"Retry-After": "120"}
    shunned: dict = {}
    now = [1000.0]
    for left in (120, 60, 1):
        now[0] = 1120.0 - left
        with pytest.raises(Refusal) as caught:
            get(store, source.url("/m.onnx"), shunned=shunned, clock=lambda: now[0])
        assert caught.value.after == left and not caught.value.permanent
    assert len(source.requests) == 1
    source.status, now[0] = None, 1120.0
    get(store, source.url("/m.onnx"), shunned=shunned, clock=lambda: now[0])


def test_another_source_is_asked_meanwhile(store, source):
    with serving() as busy:
        busy.status, busy.answer_headers = 429, {"Retry-After": "120"}
        assert get(store, busy.url("/m.onnx"), source.url("/m.onnx")).source == source.url("/m.onnx")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Content-Length": "\u00b2"}),
        (200, {"Content-Length": "9" * 5000}),
        (206, {"Content-Range": f"bytes {'9' * 5000}-7/9"}),
        (206, {"Content-Range": f"bytes 0-7/{'9' * 5000}"}),
    ],
)
def test_a_number_that_is_none_is_that_sources_failure(store, source, status, headers):
    name = digest(CONTENT)
    with store.locked(name, cancelled=bool), store.partial(name) as partial:
        partial.begin(Origin(total=len(CONTENT)))
        partial.write(CONTENT[:100])
    with serving() as odd:
        odd.answers["/m.onnx"] = lambda *_asked: (status, {"Connection": "close", **headers}, b"other bytes")
        assert get(store, odd.url("/m.onnx"), source.url("/m.onnx"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "99999999999999999"}, 600),
        ({"Retry-After": "9" * 5000}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "\u00b2"}, None),
        ({}, None),
        # Both by the source's clock, so ours may be wrong by years.
        ({"Retry-After": "Fri, 01 Jan 1999 00:01:30 GMT", "Date": "Fri, 01 Jan 1999 00:00:00 GMT"}, 90),
        ({"Retry-After": "Fri, 01 Jan 1999 00:01:30 GMT", "Date": "Fri, 01 Jan 1999 00:02:00 GMT"}, 0),
        ({"Retry-After": "Fri, 01 Jan 1999 00:01:30 GMT"}, None),
        ({"Retry-After": "Fri, 01 Jan 2999 00:01:30 GMT", "Date": "Fri, 01 Jan 1999 00:00:00 GMT"}, 600),
    ],
)
def test_retry_after(headers, seconds):
    message = Message()
    for name, value in headers.items():
        message[name] = value
    assert retry_after(message) == seconds


def test_counters(store, source):
    stats = FetchStats()
    get(store, source.url("/gone?token=x"), source.url("/m.onnx"), stats=stats)
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in StoreCollector(store=store, stats=stats).collect()
        for sample in family.samples
    }
    label = ("source", source.address)
    assert found["edgeward_fetched_bytes_total", label] == len(CONTENT)
    assert found["edgeward_fetches_total", ("result", "Fetched"), label] == 1
    assert found["edgeward_fetches_total", ("result", "NotFound"), label] == 1
    assert found["edgeward_store_bytes",] == len(CONTENT) and found["edgeward_store_quota_bytes",] == 0


def test_many_sources_make_a_bounded_number_of_labels():
    stats = FetchStats()
    for number in range(200):
        stats.add(f"https://host-{number}.example.com/m", "Fetched", received=1, resumed=0, seconds=0.5)
    assert len(stats.received) == 65 and stats.received["other"] == 136
