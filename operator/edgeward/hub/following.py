"""Follows the repositories of spec.track in the background, and finds what jobs are pinned to. What was found last is kept in
memory for the next pass, which takes it into status.tracked or an Assignment; a look that fails changes nothing but what is
said of it.

Each look runs in a thread of its own, one at a time for each registry: a registry that does not answer holds up nobody but
those who follow it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from edgeward.api.common import ApiError as InvalidObject
from edgeward.api.common import format_time, seconds
from edgeward.api.modelrelease import Artifact, ModelRelease, Track, TrackedVersion
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import SECRETS, Object, key_of
from edgeward.fleet import constraint
from edgeward.fleet.model import Followed
from edgeward.fleet.pins import asked_key
from edgeward.fleet.reading import Reader
from edgeward.fleet.tracking import still_tracked
from edgeward.registry.newest import Found, Verified, exact, newest
from edgeward.registry.repository import Cancelled, Models, Reach, Refusal

from .aside import aside

log = logging.getLogger(__name__)
_JITTER = 0.1  # of the interval, to either side: releases that were made together do not ask together for good
_SHORTEST = 1.0  # seconds
_GLANCE = 5.0  # seconds between two looks at what is to be looked for
_FIRST_AGAIN = 2.0  # seconds after a first look that failed; doubled each time up to the interval
_FORMS = (".dockerconfigjson", "config.json")


class NoLogin(Exception):
    """The pull secret cannot be used; says why and what to do."""


@dataclass(slots=True)
class _Look:
    """One release that is followed, or one pin."""

    asked: Track
    namespace: str
    due: float = 0.0
    pin: bool = False
    failures: int = 0
    running: bool = False
    verified: Verified = field(default_factory=Verified)


class Follower:
    """releases: those that there are, as raw objects. pins: namespace of each job whose version only the registry knows, and
    what that is to be asked. changed: hears of a new result. monotonic, wall: clocks."""

    def __init__(
        self,
        *,
        client: Client,
        releases: Callable[[], Iterable[Object]],
        reach: Reach,
        changed: Callable[[], None],
        pins: Callable[[], Iterable[tuple[str, Track]]] = tuple,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._releases = releases
        self._reach = reach
        self._changed = changed
        self._pins = pins
        self._monotonic = monotonic
        self._wall = wall
        self._reader = Reader()
        self._looks: dict[str, _Look] = {}
        self._found: dict[str, Followed] = {}
        self._hosts: dict[str, asyncio.Lock] = {}
        self._woken = asyncio.Event()
        self._closed = False

    @property
    def followed(self) -> Mapping[str, Followed]:
        """By namespace/name of the release, and by pins.asked_key()."""
        return self._found

    def wake(self) -> None:
        """A ModelRelease changed."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._woken.clear()
                    wait = self._start_due(group)
                    try:
                        async with asyncio.timeout(min(wait, _GLANCE)):
                            await self._woken.wait()
                    except TimeoutError:
                        pass
        finally:
            self._closed = True

    async def once(self) -> None:
        """Every look that is due."""
        async with asyncio.TaskGroup() as group:
            self._start_due(group)

    def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Seconds until the next one is due."""
        now, there = self._monotonic(), set()
        for key, wanted, remembered in self._wanted():
            there.add(key)
            look = self._looks.get(key)
            if look is None or look.asked != wanted.asked:
                look = self._looks[key] = wanted
                look.due = now
            if look.due <= now and not look.running:
                look.running = True
                group.create_task(self._look(key, look, remembered))
        for gone in self._looks.keys() - there:
            del self._looks[gone]
            self._found.pop(gone, None)
        waiting = [one.due for one in self._looks.values() if not one.running]
        return max(0.0, min(waiting, default=math.inf) - now)

    def _wanted(self) -> Iterator[tuple[str, _Look, TrackedVersion | None]]:
        """What is to be looked for, and what is remembered of it."""
        for raw in self._releases():
            release = self._read(raw)
            if release is not None and release.spec.track is not None:
                yield key_of(raw), _Look(release.spec.track, release.namespace), release.status.tracked
        for namespace, track in self._pins():
            yield asked_key(namespace, track), _Look(track, namespace, pin=True), None

    def _read(self, raw: Object) -> ModelRelease | None:
        try:
            return self._reader.read(ModelRelease, raw)
        except InvalidObject:
            return None  # the plan says what is wrong with it

    async def _look(self, key: str, look: _Look, remembered: TrackedVersion | None) -> None:
        asked, before = look.asked, self._found.get(key)
        known = before.found if before is not None and before.asked == asked else remembered
        try:
            result = await self._result(look, known if look.pin else still_tracked(asked, known))
        finally:
            look.running = False
        look.failures = look.failures + 1 if result.problem else 0
        interval = max(seconds(asked.interval), _SHORTEST)
        again = interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, guards nothing
        if result.problem and result.found is None:
            again = min(again, _FIRST_AGAIN * 2.0 ** min(look.failures - 1, 16))
        if look.pin and result.found is not None:
            again = math.inf  # a version that was pinned stays what it is
        look.due = self._monotonic() + again
        self._woken.set()
        if self._looks.get(key) is not look:
            return  # it asks for something else by now, or is gone
        if self._found.get(key) != result:
            self._found[key] = result
            (log.warning if result.problem else log.info)(
                "following %s for %s: %s",
                asked.repository,
                key,
                result.problem or (result.found.version if result.found else "no version matches"),
            )
            self._changed()

    async def _result(self, look: _Look, current: TrackedVersion | None) -> Followed:
        asked = look.asked
        try:
            login = await self._login(look.namespace, asked.pull_secret)
            host = asked.repository.partition("://")[2].partition("/")[0]
            async with self._hosts.setdefault(host, asyncio.Lock()):
                found = await aside(lambda: self._ask(look, login, current))
        except constraint.BadConstraint as error:
            return Followed(asked=asked, found=current, problem=f"InvalidSpec: {error}")
        except Refusal as refusal:
            return Followed(asked=asked, found=current, problem=f"{refusal.reason}: {refusal.message}"[:400])
        except NoLogin as error:
            return Followed(asked=asked, found=current, problem=f"Unauthorized: {error}")
        except Cancelled:
            return Followed(asked=asked, found=current, problem="Unreachable: the operator stops")
        except Exception as error:  # what nobody foresaw of one registry must not end the others
            log.exception("following %s failed", asked.repository)
            return Followed(asked=asked, found=current, problem=f"LookFailed: {type(error).__name__}")
        return Followed(asked=asked, found=self._taken(found, asked, current), passed_over=found.passed_over[:3])

    def _ask(self, look: _Look, login: bytes, current: TrackedVersion | None) -> Found:
        """In a thread."""
        asked, verified = look.asked, look.verified
        models = Models(asked.repository, reach=self._reach, login=login, cancelled=lambda: self._closed)
        if look.pin:
            return exact(models, asked.constraint, asked.signature, verified=verified)
        wanted = constraint.parse(asked.constraint)
        return newest(models, wanted, asked.signature, current=current, verified=verified)

    def _taken(self, found: Found, asked: Track, current: TrackedVersion | None) -> TrackedVersion | None:
        if not found.version:
            return None
        taken = TrackedVersion(
            version=found.version,
            artifact=Artifact(uri=asked.repository, digest=found.digest),
            variants=found.variants,
            at=format_time(self._wall()),
        )
        same = current is not None and taken.model_copy(update={"at": current.at}) == current
        return current if same else taken

    async def _login(self, namespace: str, secret: str | None) -> bytes:
        """The docker config JSON of a pull secret."""
        if not secret:
            return b""
        where = f"{namespace}/{secret}"
        try:
            found = await self._client.get(SECRETS, namespace, secret)
        except ApiError as error:
            if error.not_found:
                raise NoLogin(f"there is no Secret {where}, which track.pullSecret names") from error
            if error.status == 403:
                message = f"the operator may not read Secret {where}: add it to the chart's tracking.pullSecrets"
                raise NoLogin(message) from error
            raise NoLogin(f"Secret {where} cannot be read: {error}") from error
        data = found.get("data") or {}
        text = next((data[form] for form in _FORMS if form in data), None)
        if text is None:
            raise NoLogin(f"Secret {where} is not of type kubernetes.io/dockerconfigjson")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise NoLogin(f"Secret {where} is not base64") from error
