"""Load for a server on the other core: so many clients, each with one kept connection and one request at a time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.bench.bench_runtime_tiny import CLIENT_CORE


@contextlib.contextmanager
def on_client_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(kw_only=True)
class Load:
    seconds: float
    latencies: list[float] = field(
        default_factory=list
    )  # seconds, of answers with 200, in the order in which they came
    times: list[float] = field(default_factory=list)  # when they came, from the begin
    failed: int = 0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def closed_loop(
    port: int,
    request: Callable[[int], bytes],
    *,
    clients: int,
    seconds: float,
    until: Callable[[], bool] = lambda: False,
    check: Callable[[int, bytes, bytes], bool] = lambda number, head, body: True,
) -> Load:
    """Each client sends request(its number) again as soon as its answer came; `check` sees the head and the body. Ends
    after `seconds`, or when `until` is true. A connection that ends is a failure, and opened again."""
    load = Load(seconds=seconds)
    poll = select.epoll()
    sockets: dict[int, tuple[socket.socket, int]] = {}
    sent: dict[int, float] = {}
    received: dict[int, bytes] = {}

    def connect(number: int) -> None:
        one = socket.create_connection(("127.0.0.1", port), timeout=30)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[one.fileno()] = (one, number)
        poll.register(one.fileno(), select.EPOLLIN)
        send(one.fileno())

    def send(handle: int) -> None:
        one, number = sockets[handle]
        received[handle] = b""
        sent[handle] = time.perf_counter()
        one.sendall(request(number))

    begin = time.perf_counter()
    for number in range(clients):
        connect(number)
    try:
        while (now := time.perf_counter()) - begin < seconds and not until():
            for handle, _events in poll.poll(0.2):
                one, number = sockets[handle]
                try:
                    data = one.recv(1 << 20)
                except OSError:
                    data = b""
                if not data:
                    load.failed += 1
                    poll.unregister(handle)
                    sockets.pop(handle)[0].close()
                    connect(number)
                    continue
                received[handle] += data
                whole = parts(received[handle])
                if whole is None:
                    continue
                now = time.perf_counter()
                if whole[0].startswith(b"HTTP/1.1 200") and check(number, *whole):
                    load.latencies.append(now - sent[handle])
                    load.times.append(now - begin)
                else:
                    load.failed += 1
                send(handle)
    finally:
        for one, _number in sockets.values():
            one.close()
        poll.close()
    load.seconds = time.perf_counter() - begin
    return load


def parts(data: bytes) -> tuple[bytes, bytes] | None:
    """Head and body of an answer, None if it is not whole yet."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return None
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    return (head, body) if len(body) >= length else None
