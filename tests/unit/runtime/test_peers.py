"""Whose turn it is among the pods of a site, and how long anybody is waited for. Real ones: test_runtime_peers.py."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from edgeward_runtime.errors import Cancelled
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


def peers(tmp_path, clock: Clock, port: int, *hosts: str) -> Peers:
    turns = Turns("me", clock=clock)
    one = Peers(
        turns=turns,
        seed=Seed(store=Store(tmp_path), turns=turns),
        listen="203.0.113.1",  # no address of this machine: it gives nothing, and asks all the same
        times=Times(),
        resolve=lambda host, _port: [host],
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
