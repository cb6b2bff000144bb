"""The client against real sockets that behave badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeward_runtime.offload.client import Attempt, Client, Refused, Target, Unavailable
from edgeward_runtime.tensors import TensorSpec

Y = {"y": TensorSpec("y", "FP32", (-1, 2))}


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Gives each connection's socket to `answer` once the request's head has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if connection.recv(65536):
                    answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v2/models/m"


def exchange(url: str, attempt: Attempt) -> object:
    return Client(Target(url=url)).exchange(
        b"{}", 2, encoding="identity", timeout=30.0, specs=Y, names=["y"], attempt=attempt
    )


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_server_that_drips_is_cut_off(first: bytes):
    reached, held = threading.Event(), []

    def drip(connection: socket.socket) -> None:
        held.append(connection)
        connection.sendall(first)
        reached.set()

    attempt, failures = Attempt(), []

    def ask(url: str) -> None:
        try:
            exchange(url, attempt)
        except Unavailable as error:
            failures.append(error)

    with serving(drip) as url:
        asking = threading.Thread(target=ask, args=(url,), daemon=True)
        asking.start()
        assert reached.wait(10)
        attempt.cut()
        asking.join(10)
    assert not asking.is_alive() and len(failures) == 1


def test_what_was_cut_before_it_began_asks_nobody():
    asked = threading.Event()
    with serving(lambda _connection: asked.set()) as url:
        attempt = Attempt()
        attempt.cut()
        with pytest.raises(Unavailable, match="in time"):
            exchange(url, attempt)
    assert not asked.is_set()


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (413, Refused), (401, Unavailable), (429, Unavailable), (503, Unavailable)]
)
def test_whose_fault_a_status_is(status: int, kind: type[Exception]):
    def answer(connection: socket.socket) -> None:
        body = b'{"error": "no"}'
        connection.sendall(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    with serving(answer) as url, pytest.raises(kind, match=str(status)):
        exchange(url, Attempt())


def test_a_token_is_not_sent_over_plain_http(tmp_path: Path):
    with pytest.raises(ValueError, match="plain http"):
        Client(Target(url="http://cloud/v2/models/m", token_file=tmp_path / "token"))
    Client(Target(url="https://cloud/v2/models/m", token_file=tmp_path / "token"))
