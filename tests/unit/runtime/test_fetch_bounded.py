"""Sources that go on sending a little now and then: every answer ends in time, and soon after nobody wants it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import Access, Limits, fetch
from edgeward_runtime.fetch.http import Client
from edgeward_runtime.fetch.signature import signatures
from edgeward_runtime.store import Store

D = f"sha256:{'d' * 64}"
OK = b"HTTP/1.1 200 OK\r\n"
BODY = OK + b"content-length: 1000000\r\n\r\n"
# What is sent first, and then again and again.
ENDLESS = {
    "headers": (OK + b"x-long: ", b"x"),
    "body": (BODY, b" "),
    "chunks": (OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk's head": (OK + b"transfer-encoding: chunked\r\n\r\n1;", b"x"),
}


@contextlib.contextmanager
def dripping(*scripts: tuple[bytes, bytes]) -> Iterator[str]:
    """HOST:PORT. Each connection in turn gets a script, the last one all that follow. They send
    as fast as they can: the tests' clocks and changes of mind go by the reads."""
    left = list(scripts)
    listener = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listener.getsockname()[1]}"

    def serve(peer: socket.socket, first: bytes, again: bytes) -> None:
        with contextlib.suppress(OSError), peer:
            peer.recv(65536)
            peer.sendall(first.replace(b"HOST", host.encode()))
            while again:
                peer.sendall(again)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                script = left.pop(0) if len(left) > 1 else left[0]
                threading.Thread(target=serve, args=(peer, *script), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield host
    finally:
        listener.close()


def after(calls: int) -> Callable[[], bool]:
    count = itertools.count()
    return lambda: next(count) >= calls


def ticking() -> Callable[[], float]:
    """Ten seconds pass from each look to the next."""
    count = itertools.count(step=10)
    return lambda: float(next(count))


def read_all(client: Client, host: str) -> bytes:
    with client.request(f"http://{host}/x", headers={}) as response:
        return response.read()


@pytest.mark.parametrize("part", ENDLESS)
def test_an_answer_has_one_limit_for_all_of_it(part: str) -> None:
    with dripping(ENDLESS[part]) as host, pytest.raises((Refusal, TimeoutError), match="not done after 25 s"):
        read_all(Client(timeout=5, total=25, clock=ticking()), host)


@pytest.mark.parametrize("part", ENDLESS)
def test_what_nobody_wants_any_more_is_not_read_on(part: str) -> None:
    with dripping(ENDLESS[part]) as host, pytest.raises(Cancelled):
        read_all(Client(timeout=5, cancelled=after(2)), host)


def bring(tmp_path, host: str, *, cancelled: Callable[[], bool] = bool, clock: Callable[[], float] = float) -> None:
    fetch(
        Entry(name="m", version="1", digest=D, sources=(f"oci://{host}/a/b",)),
        store=Store(tmp_path),
        limits=Limits(max_bytes=1 << 30, timeout_seconds=5, total_seconds=25),
        cancelled=cancelled,
        shunned={},
        access=Access(plain_http=frozenset({host})),
        clock=clock,
    )


CHALLENGE = (
    b'HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm="http://HOST/token"\r\ncontent-length: 0\r\n\r\n',
    b"",
)


@pytest.mark.parametrize("before", [(), (CHALLENGE,)], ids=["manifest", "token"])
def test_a_registry_that_drips(tmp_path, before) -> None:
    with dripping(*before, (BODY, b" ")) as host:
        with pytest.raises(Refusal) as caught:
            bring(tmp_path, host, clock=ticking())
        assert (caught.value.reason, caught.value.permanent) == ("Unreachable", False)
        assert "not done after 25 s" in caught.value.message
    with dripping(*before, (BODY, b" ")) as host, pytest.raises(Cancelled):
        wanted = after(8)
        bring(tmp_path, host, cancelled=wanted)


@pytest.mark.parametrize("scheme", ["http", "oci"])
def test_a_signature_that_drips(scheme: str) -> None:
    with dripping((BODY, b" ")) as host, pytest.raises(Cancelled):
        list(
            signatures(
                Entry(name="m", version="1", digest=D, sources=(f"{scheme}://{host}/a/b",)),
                limits=Limits(max_bytes=9, timeout_seconds=5, total_seconds=25),
                access=Access(plain_http=frozenset({host})),
                cancelled=after(2),
            )
        )
