"""The other pods of the job at this site, asked for a blob before anybody outside is.

One that has it gives it; while one fetches it the others wait and take it from there, so that each blob crosses the
site's link once. Nothing is trusted: what a peer gives is verified like the bytes of any source. Nothing is waited for
without bound either: a peer that does not answer is left alone for a while, one that fetches and gets no further loses
its turn, and one that gives too slowly or wrong bytes is not asked for that blob again. Then this pod goes outside.

Whole blobs, each from one peer: turns.py decides who goes outside, seed.py is what answers here.
"""

from __future__ import annotations

import http.client
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import bounded
from edgeward_runtime.fetch import http as web
from edgeward_runtime.fetch.names import Names, resolved
from edgeward_runtime.fetch.refusals import unreachable
from edgeward_runtime.fetch.seed import OUTSIDE, PATH, PEER, RECEIVED, Seed, allowed
from edgeward_runtime.fetch.source import Opened, Source
from edgeward_runtime.fetch.turns import Turns
from edgeward_runtime.settings import Settings
from edgeward_runtime.sharing import Sharing
from edgeward_runtime.store import Store
from edgeward_runtime.store.partial import Origin

log = logging.getLogger(__name__)
T = TypeVar("T")

_MOST = 64  # peers that are asked
_AT_ONCE = 8
_OWN_FAULT = ("DiskFull", "StoreUnwritable")  # no other source helps


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds."""

    names: float = 2.0  # for the names of peers to resolve
    answer: float = 2.0  # for a peer to say what it has
    read: float = 5.0  # for the next bytes of a blob
    again: float = 0.3  # until they are asked again
    stalled: float = 20.0  # without a byte more at the peer that fetches
    away: float = 30.0  # that one which did not answer is left alone
    settle: float = 3.0  # after the config names peers, for names to resolve and for peers to read theirs
    heard: float = 300.0  # that a pod which asked here counts as a peer, whatever names say
    longest: float = 3600.0  # that one blob is waited for, whatever peers say


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    who: str
    size: int | None = None  # bytes of the blob, if it is there
    outside: bool = False
    received: int = 0


def peers_of(settings: Settings, store: Store) -> Peers:
    turns = Turns(secrets.token_hex(8))
    return Peers(turns=turns, seed=Seed(store=store, turns=turns), listen=settings.host)


class Peers:
    """`bring` is for the thread that fetches; `adopt` for the one that reads the config, which may be the same."""

    def __init__(
        self,
        *,
        turns: Turns,
        seed: Seed,
        listen: str,
        times: Times | None = None,
        resolve: Callable[[str, int], list[str]] = resolved,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._turns = turns
        self._seed = seed
        self._listen = listen
        self._times = times or Times()
        self._resolve = resolve
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._asked: Sharing | None = None
        self._names: Names | None = None
        self._since = 0.0
        self._heard: dict[str, float] = {}  # address -> when it last asked
        self._own: set[str] = set()
        self._away: dict[str, float] = {}  # address -> until when
        self._met = False  # somebody has answered since the config named peers
        seed.heard = self._hear

    def adopt(self, asked: Sharing | None) -> None:
        if asked == self._asked:
            return
        self._seed.stop()
        if asked is not None:
            try:
                self._seed.start(self._listen, asked.port, asked.token)
            except OSError as error:
                # Others fetch what only this pod has from elsewhere; it can still ask them.
                log.error("blobs cannot be given to peers", extra={"port": asked.port, "error": str(error)})
        with self._lock:
            self._own, self._away, self._met = set(), {}, False
            self._since = self._clock()
            self._names = None
            if asked is not None:
                self._names = Names(asked.hosts, asked.port, self._resolve, patience=self._times.names)
            self._asked = asked

    def bring(
        self,
        digest: str,
        *,
        take: Callable[[Source, float], T],
        outside: Callable[[], T],
        received: Callable[[], int],
        cancelled: Callable[[], bool],
    ) -> T:
        """What `take` makes of a peer's source (it is told the seconds that it may take), or else what `outside` does.

        `received`: bytes that came from outside so far. Raises Cancelled, and whatever `outside` raises.
        """
        with self._lock:
            asked, names = self._asked, self._names
        if asked is None or names is None:
            return outside()
        useless: set[str] = set()
        steps: dict[str, tuple[int, float]] = {}  # peer -> bytes that it had, and since when
        busy: dict[str, float] = {}  # peer -> since when it has no time
        begun = self._clock()
        with self._turns.wanted(digest, received=received):
            while True:
                answers = self._ask_all(asked, names, digest)
                holders = [address for address, one in answers.items() if one.size is not None]
                address = next((one for one in holders if one not in useless), None)
                if address is not None:
                    seconds = min(allowed(answers[address].size or 0), self._times.longest)
                    try:
                        return take(self._source(asked, address, digest, cancelled, seconds), seconds)
                    except Refusal as refusal:
                        if refusal.reason in _OWN_FAULT:
                            raise
                        now = self._clock()
                        if refusal.after is None or now - busy.setdefault(address, now) >= self._times.stalled:
                            useless.add(address)
                            said = {"peer": address, "reason": refusal.reason, "error": refusal.message}
                            log.warning("peer failed", extra=said)
                elif self._clock() - begun >= self._times.longest or (
                    self._may_go(digest, answers, steps) and self._turns.go(digest, past=self._given_up(steps))
                ):
                    return outside()
                if cancelled():
                    raise Cancelled
                self._sleep(self._times.again)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _may_go(self, digest: str, answers: dict[str, _Answer], steps: dict[str, tuple[int, float]]) -> bool:
        now = self._clock()
        waits = False
        for one in answers.values():
            if one.size is not None or not (one.outside or self._turns.first(digest, one.who)):
                continue
            before = steps.get(one.who)
            if before is None or before[0] != one.received:
                steps[one.who] = before = (one.received, now)
            waits = waits or now - before[1] < self._times.stalled
        if waits:
            return False
        return self._met or now - self._since >= self._times.settle

    def _given_up(self, steps: dict[str, tuple[int, float]]) -> frozenset[str]:
        late = self._clock() - self._times.stalled
        return frozenset(who for who, (_received, since) in steps.items() if since <= late)

    def _ask_all(self, asked: Sharing, names: Names, digest: str) -> dict[str, _Answer]:
        """By address, those that know something of the blob."""
        found = dict.fromkeys(names.addresses())
        now = self._clock()
        with self._lock:
            self._heard = {one: at for one, at in self._heard.items() if now - at < self._times.heard}
            found |= dict.fromkeys(self._heard)
            addresses = [one for one in found if one not in self._own and self._away.get(one, 0.0) <= now][:_MOST]
        if not addresses:
            return {}
        with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(addresses))) as pool:
            answers = list(pool.map(lambda one: self._ask(asked, one, digest), addresses))
        return {address: answer for address, answer in zip(addresses, answers, strict=True) if answer is not None}

    def _ask(self, asked: Sharing, address: str, digest: str) -> _Answer | None:
        connection = bounded.connection(address, asked.port, seconds=self._times.answer)
        try:
            connection.request("HEAD", PATH + digest, headers=self._headers(asked))
            response = connection.getresponse()
            response.read()
            return self._understood(address, response)
        except ConnectionRefusedError:
            return None  # at once, and it may be about to start
        except (OSError, http.client.HTTPException, ValueError):
            with self._lock:
                self._away[address] = self._clock() + self._times.away
            return None
        finally:
            connection.close()

    def _understood(self, address: str, response: http.client.HTTPResponse) -> _Answer | None:
        who = response.headers.get(PEER, "")
        if who == self._turns.me:
            with self._lock:
                self._own.add(address)
            return None
        if not who or response.status not in (200, 202, 404):
            return None  # of another job, or of another time: its token is not ours
        self._met = True
        if response.status == 404:
            return None
        if response.status == 200:
            return _Answer(who=who, size=int(response.headers["Content-Length"] or 0))
        headers = response.headers
        return _Answer(who=who, outside=headers.get(OUTSIDE) == "1", received=int(headers.get(RECEIVED) or 0))

    def _headers(self, asked: Sharing) -> dict[str, str]:
        return {"Authorization": f"Bearer {asked.token}", PEER: self._turns.me}

    def _hear(self, address: str) -> None:
        with self._lock:
            self._heard[address] = self._clock()
            self._away.pop(address, None)  # it lives

    # -- taking -------------------------------------------------------------------------------------------------------

    def _source(
        self, asked: Sharing, address: str, digest: str, cancelled: Callable[[], bool], seconds: float
    ) -> Source:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{asked.port}{PATH}{digest}"
        client = web.Client(
            timeout=self._times.read, total=seconds, cancelled=cancelled, clock=self._clock, direct=True
        )

        @contextmanager
        def open_(offset: int, origin: Origin) -> Iterator[Opened]:
            for start in dict.fromkeys((offset, 0)):
                ranges = web.range_headers(url, start, origin)
                with client.request(url, headers=ranges, private=self._headers(asked)) as response:
                    if response.status == 202:
                        raise unreachable(url, "has it no more")
                    answer = web.opened(url, response, start)
                    if answer is not None:
                        yield answer
                        return
            raise unreachable(url, "gives neither the rest nor the whole")

        return Source(address=url, open=open_)
