"""Weekly windows in a site's own time zone: whether one is open, and when the next one opens. Pure.

A window is a time on the clock on the wall: "02:00 for 3h" opens at 02:00 and closes at 05:00, however many hours the
night has. Where the clocks change, a time on the wall is taken for the moment at which such a clock first shows it or a
later one:

    02:30 in the night without an hour from 2 to 3 is the moment of the change, when clocks show 03:00;
    02:30 in the night with two such hours is the first of them.

So a window that begins in the hour that is left out begins when that hour would have, one that begins in the hour that
comes twice opens once, at the first, and one that lies wholly in the hour that is left out falls out that night. The
rule never turns two times around, hence the common time of two windows is that of their times on the wall, which is what
`common` computes.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

from edgeward.api.assignment import Activation
from edgeward.api.common import format_duration, parse_time, seconds
from edgeward.api.modelrelease import Rollout, Window
from edgeward.fleet.model import Site

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_WINDOWS = 32
"""as many as an Assignment takes"""
_DAY, _WEEK = 86400, 7 * 86400
_LATEST = 2.5e11
"""Unix seconds, in the year 9892: beyond, the calendar ends"""
NEVER = Window(start="00:00", duration="0s")
"""of windows without a common time: it opens on no day"""


class UnknownTimeZone(ValueError):
    """No such time zone is known here."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How windows stand at a moment."""

    since: float | None = None
    """Unix seconds at which what is open now opened, -inf for what is always open; None: nothing is open"""
    next: float | None = None
    """when it opens next, None while it is open and where it never does"""

    @property
    def open(self) -> bool:
        return self.since is not None


ALWAYS = Opening(since=float("-inf"))


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that IANA name, "" for UTC. UnknownTimeZone for one that is not known."""
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError) as error:  # a folder of zones is an OSError
        raise UnknownTimeZone(f"{name!r} is no time zone that is known here, such as Europe/Zurich") from error


def opening(windows: Sequence[Window], zone: str, *, now: float, not_before: float | None = None) -> Opening:
    """How it stands at `now` (Unix seconds): open within any of the windows (of none at all: always), and never before
    `not_before`. UnknownTimeZone if there are windows in a time zone that is not known."""
    least = float("-inf") if not_before is None else not_before
    if not windows:
        return Opening(since=least) if now >= least else Opening(next=least)
    at = max(now, least)
    if at > _LATEST:
        return Opening(next=least)
    place = zone_of(zone)
    for start, end in _spans(tuple(windows), place, dt.datetime.fromtimestamp(at, place).date()):
        if end <= at:
            continue
        start = max(start, least)
        return Opening(since=start) if start <= now else Opening(next=start)
    return Opening()


def of(asked: Activation | None, *, now: float) -> Opening:
    """The same for what an Assignment carries; without one, at any time. In a time zone that is not known it is closed
    for good: what protects a site must not give way to a typing error."""
    if asked is None:
        return ALWAYS
    not_before = parse_time(asked.not_before) if asked.not_before else None
    try:
        return opening(asked.windows, asked.time_zone, now=now, not_before=not_before)
    except UnknownTimeZone:
        return Opening()


def activation(rollout: Rollout | None, site: Site | None) -> Activation | None:
    """When a site may begin to serve a new version, by its release and by itself; None: at once."""
    not_before = rollout.activation_time if rollout is not None else None
    windows = common(rollout.windows if rollout is not None else (), site.windows if site is not None else ())
    if not_before is None and not windows:
        return None
    zone = site.time_zone if site is not None and windows else ""
    return Activation(not_before=not_before, windows=windows, time_zone=zone)


def held(asked: Activation) -> Activation:
    """The same, but never: for a release that somebody holds while its new version waits at the sites."""
    return asked.model_copy(update={"windows": (NEVER,), "time_zone": ""})


def common(first: Sequence[Window], second: Sequence[Window]) -> tuple[Window, ...]:
    """Windows that are open when one of each is, where both lists are of the same time zone; no windows mean any time.

    Where there are more pieces than an Assignment takes, the last of the week are left out: it errs towards closed.
    """
    if not first or not second:
        return tuple(first or second)
    pieces = [(max(a, c), min(b, d)) for a, b in _week(first) for c, d in _week(second) if max(a, c) < min(b, d)]
    if not pieces:
        return (NEVER,)
    merged = [(int(start), end) for start, end in _joined(pieces)]
    if len(merged) > 1 and merged[0][0] == 0 and merged[-1][1] == _WEEK:
        # What runs over the end of the week is one window again.
        (_, end), (start, _) = merged[0], merged[-1]
        merged = [*merged[1:-1], (start, _WEEK + end)]
    days: dict[tuple[int, float], list[int]] = defaultdict(list)
    for start, end in merged:
        days[start % _DAY, end - start].append(start // _DAY)
    return tuple(
        Window(
            days=tuple(DAYS[day] for day in of_start) if len(of_start) < 7 else (),
            start=f"{start // 3600:02}:{start % 3600 // 60:02}",
            duration=format_duration(length),
        )
        for (start, length), of_start in sorted(days.items(), key=lambda item: item[1])
    )[:MOST_WINDOWS]


def _week(windows: Iterable[Window]) -> list[tuple[float, float]]:
    """Disjoint times of the week, in seconds on the wall since Monday 00:00."""
    spans: list[tuple[float, float]] = []
    for window in windows:
        length = min(seconds(window.duration), _WEEK)
        for day in window.days or DAYS:
            start = DAYS.index(day) * _DAY + _of_day(window)
            end = start + length
            spans += [(start, min(end, _WEEK)), (0, end - _WEEK)]
    return _joined((start, end) for start, end in spans if start < end)


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times without overlaps, in order."""
    result: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _of_day(window: Window) -> int:
    hours, _, minutes = window.start.partition(":")
    return int(hours) * 3600 + int(minutes) * 60


@lru_cache(maxsize=512)
def _spans(windows: tuple[Window, ...], zone: ZoneInfo, today: dt.date) -> Sequence[tuple[float, float]]:
    """The windows as moments without overlaps, in order, from those that may be open today to those of the week after it
    and the next (one that falls out when the clocks change comes a week later). Thousands of sites share a few."""
    spans: list[tuple[float, float]] = []
    for window in windows:
        length = min(seconds(window.duration), _WEEK)
        days = {DAYS.index(day) for day in window.days or DAYS}
        for offset in range(-int(length // _DAY) - 2, 16):
            day = today + dt.timedelta(days=offset)
            if day.weekday() not in days:
                continue
            opens = dt.datetime.combine(day, dt.time()) + dt.timedelta(seconds=_of_day(window))
            span = _moment(opens, zone), _moment(opens + dt.timedelta(seconds=length), zone)
            if span[0] < span[1]:
                spans.append(span)
    return _joined(spans)


def _moment(wall: dt.datetime, zone: ZoneInfo) -> float:
    """When a clock on the wall first shows this time or a later one, in Unix seconds."""
    moment = wall.replace(tzinfo=zone, fold=0)
    earliest, other = moment.timestamp(), wall.replace(tzinfo=zone, fold=1).timestamp()
    if other >= earliest:
        return earliest  # an ordinary time, or the first of two
    # One that is left out: the offset before the change makes it too late by how far it is into the gap, the one after
    # it too early. The change is where the offset turns.
    low, high = other, earliest
    before = dt.datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 0.5:
        middle = (low + high) / 2
        if dt.datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return float(round(high))
