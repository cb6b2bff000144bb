"""Whose turn it is among the pods of a site, and how long anybody is waited for. Real ones: test_runtime_peers.py."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeward_runtime.errors import Cancelled
from edgeward_runtime.fetch import giving, refusals, seed
from edgeward_runtime.fetch.peers import Peers, Times
from edgeward_runtime.fetch.seed import Seed
from edgeward_runtime.fetch.turns import Turns
from edgeward_runtime.sharing import Sharing
from edgeward_runtime.store import Store

DIGEST = f"sha256:{7:064x}"
TOKEN = "0123456789abcdef"


class Pod:
    """One that says that it wants the blob, asks each other pod in turn, and goes outside if none is before it."""

    def __init__(self, name: str, others: dict[str, Pod]) -> None:
        self.turns = Turns(name, clock=lambda: 100.0)
        self._others = others
        self.went = False
        self._clear = True
        self.stack = contextlib.ExitStack()

    def steps(self) -> Iterator[None]:
        self.stack.enter_context(self.turns.wanted(DIGEST, received=lambda: 0))
        yield
        for name, pod in self._others.items():
            if pod is self:
                continue
            said = pod.turns.asked(DIGEST, by=self.turns.me)
            self._clear = self._clear and not (said and (said.outside or self.turns.first(DIGEST, name)))
            yield
        self.went = self._clear and self.turns.go(DIGEST)
        yield


@pytest.mark.parametrize("count", [2, 3])
def test_in_any_order_of_messages_at_most_one_goes_outside(count: int) -> None:
    names = [f"pod-{number}" for number in range(count)]
    # Each pod has a step for wanting, one for each it asks, and one for going: 34,650 orders for three of them.
    for order in _merges([[name] * (count + 1) for name in names]):
        pods: dict[str, Pod] = {}
        pods.update({name: Pod(name, pods) for name in names})
        steps = {name: pod.steps() for name, pod in pods.items()}
        for name in order:
            next(steps[name])
        assert sum(pod.went for pod in pods.values()) <= 1, order
        for pod in pods.values():
            pod.stack.close()


def _merges(queues: list[list[str]]) -> Iterator[tuple[str, ...]]:
    if not any(queues):
        yield ()
        return
    for index, queue in enumerate(queues):
        if queue:
            rest = [*queues[:index], queue[1:], *queues[index + 1 :]]
            for merge in _merges(rest):
                yield (queue[0], *merge)


def test_one_that_asked_and_then_was_heard_no_more_is_waited_for_in_vain_but_not_for_long() -> None:
    now = [100.0]
    first, other = ("a", "b") if Turns("b").first(DIGEST, "a") else ("b", "a")
    turns = Turns(other, clock=lambda: now[0])
    with turns.wanted(DIGEST, received=lambda: 0):
        assert turns.asked(DIGEST, by=first) is not None
        assert not turns.go(DIGEST)
        now[0] += 10
        assert turns.go(DIGEST)


class Stuck(http.server.BaseHTTPRequestHandler):
    """Fetches, it says, and gets no further. Or waits for its turn for ever."""

    outside = "1"

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(202)
        for name, value in (("Edgeward-Peer", "stuck"), ("Edgeward-Outside", self.outside), ("Edgeward-Received", "5")):
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        yield one.server_port
        one.shutdown()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Real(Clock):
    def __call__(self) -> float:
        return time.monotonic()


def peers(
    tmp_path,
    clock: Clock,
    port: int,
    *hosts: str,
    times: Times | None = None,
    resolve: Callable[[str, int], list[str]] = lambda host, _port: [host],
) -> Peers:
    turns = Turns("me", clock=clock)
    one = Peers(
        turns=turns,
        seed=Seed(store=Store(tmp_path), turns=turns),
        listen="203.0.113.1",  # no address of this machine: it gives nothing, and asks all the same
        times=times or Times(),
        resolve=resolve,
        clock=clock,
        sleep=clock.sleep,
    )
    one.adopt(Sharing(hosts=hosts, port=port, token=TOKEN))
    return one


def brought(one: Peers, *, cancelled=bool) -> str:
    return one.bring(
        DIGEST, take=lambda _source, _seconds: "peer", outside=lambda: "outside", received=int, cancelled=cancelled
    )


@pytest.mark.parametrize("outside", ["1", "0"])
def test_who_gets_no_further_loses_the_turn(tmp_path, outside: str) -> None:
    clock = Clock()
    with listening(type("One", (Stuck,), {"outside": outside})) as port:
        assert brought(peers(tmp_path, clock, port, "127.0.0.1")) == "outside"
    assert clock.now - 100 < Times().stalled + 5
    # One that fetches is waited for; one that waits is only if it goes first, which hangs on its name.
    assert outside == "0" or clock.now - 100 >= Times().stalled


def test_where_nobody_answers_only_the_start_is_waited_for(tmp_path) -> None:
    clock = Clock()
    with listening(Stuck) as port:
        pass
    one = peers(tmp_path, clock, port, "127.0.0.1")
    assert brought(one) == "outside"
    assert Times().settle <= clock.now - 100 <= Times().settle + 1
    start = clock.now
    assert brought(one) == "outside"
    assert clock.now == start


def test_nobody_is_waited_for_in_vain(tmp_path) -> None:
    with listening(Stuck) as port, pytest.raises(Cancelled):
        brought(peers(tmp_path, Clock(), port, "127.0.0.1"), cancelled=lambda: True)


def test_without_peers_nobody_is_asked(tmp_path) -> None:
    turns = Turns("me")
    one = Peers(turns=turns, seed=Seed(store=Store(tmp_path), turns=turns), listen="127.0.0.1")
    assert brought(one) == "outside"


class Drips(http.server.BaseHTTPRequestHandler):
    """Has it, and takes its time: a byte now and then, so that no read of it ever times out."""

    drips_head = False
    gone = threading.Event()

    def log_message(self, *_args: object) -> None:
        pass

    def drip(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for one in data:
                self.gone.wait(0.02)
                self.wfile.write(bytes([one]))

    def do_HEAD(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nEdgeward-Peer: drips\r\nContent-Length: 99999999999999\r\n")
        if self.drips_head:
            self.drip(b"X: " + bytes(100))
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"\r\n\r\n")

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.drip(bytes(200))


def taken(source: Any, _seconds: float) -> str:
    try:
        with source.open(0, None) as opened:
            while opened.reader.read1(1024):
                pass
    except OSError as error:
        raise refusals.unreachable(source.address, str(error)) from None
    return "peer"


@pytest.mark.parametrize("head", [True, False])
def test_who_drips_is_not_waited_for(tmp_path, head: bool) -> None:
    times = Times(answer=0.3 if head else 5.0, longest=1.0, settle=0.0)
    with listening(type("One", (Drips,), {"drips_head": head})) as port:
        one = peers(tmp_path, Real(), port, "127.0.0.1", times=times)
        went = one.bring(DIGEST, take=taken, outside=lambda: "outside", received=int, cancelled=bool)
    assert went == "outside"


def test_a_resolver_that_hangs_is_waited_for_once(tmp_path) -> None:
    answer, asked = threading.Event(), []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        answer.wait(10)
        return [host]

    with listening(type("One", (Drips,), {})) as port:
        one = peers(tmp_path, Clock(), port, "127.0.0.1", times=Times(names=0.05), resolve=resolve)
        for _blob in range(3):
            assert brought(one) == "outside"
        assert len(asked) == 1
        answer.set()
        while brought(one) == "outside":  # until what it said is known
            pass
        assert brought(one) == "peer"


@contextlib.contextmanager
def gives(tmp_path, *blobs: bytes) -> Iterator[tuple[Seed, int]]:
    store = Store(tmp_path)
    for data in blobs:
        path = store.blob_path(digest_of(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    one = Seed(store=store, turns=Turns("seed"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one.start("127.0.0.1", port, TOKEN)
    yield one, port
    one.stop()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def question(data: bytes) -> bytes:
    return f"GET {seed.PATH}{digest_of(data)} HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def test_who_asks_a_byte_at_a_time_is_hung_up_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(giving, "_HEAD", 0.3)
    data = b"blob"
    never = threading.Event()
    answer = b""
    with gives(tmp_path, data) as (_seed, port), socket.create_connection(("127.0.0.1", port)) as asking:
        with contextlib.suppress(ConnectionError):
            for byte in question(data):
                asking.sendall(bytes([byte]))
                never.wait(0.01)
            answer = asking.recv(1000)
        assert b"200" not in answer
    with gives(tmp_path, data) as (_seed, port), socket.create_connection(("127.0.0.1", port)) as asking:
        asking.sendall(question(data))
        assert b"200" in asking.recv(1000)


def test_who_reads_hardly_anything_holds_up_nobody_for_long(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(seed, "GRACE", 0.2)
    monkeypatch.setattr(seed, "SLOWEST", 1e12)
    data = bytes(40_000_000)
    never = threading.Event()
    received = 0
    with gives(tmp_path, data) as (_seed, port), socket.create_connection(("127.0.0.1", port)) as asking:
        asking.sendall(question(data))
        with contextlib.suppress(ConnectionError):
            while piece := asking.recv(100_000):
                received += len(piece)
                never.wait(0.01)
    assert 0 < received < len(data)


def test_all_of_a_large_blob_and_any_part_of_it(tmp_path) -> None:
    data = b"0123456789abcdef" * 500_000
    for asked, wanted in ((b"", data), (b"Range: bytes=5-\r\n", data[5:]), (b"Range: bytes=7-7999999\r\n", data[7:])):
        with gives(tmp_path, data) as (_seed, port), socket.create_connection(("127.0.0.1", port)) as asking:
            asking.sendall(question(data)[:-2] + asked + b"\r\n")
            with asking.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.0 20")
            assert body == wanted


def test_a_shortage_of_connections_passes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(seed, "_AGAIN", 0.0)
    one = Seed(store=Store(tmp_path), turns=Turns("seed"))
    errors = [OSError(errno.EMFILE, "too many open files"), ConnectionAbortedError("gone")]

    class Listening:
        def accept(self) -> Any:
            if errors:
                raise errors.pop()
            one._socket = None
            raise OSError("closed")

    one._socket = listening = Listening()  # type: ignore[assignment]
    one._accept(listening)  # type: ignore[arg-type]
    assert not errors
