"""Which part of a file comes from which source next, for up to two at once; pure: the time is told.

The next part goes to whoever asks, from the front of what is missing: half of what its share of the speed says that it
will give of the rest (guided self-scheduling, C. Polychronopoulos and D. Kuck, IEEE Trans. Computers 36, 1987), so that
parts get smaller towards the end and both end together: D/(R1+R2). When nothing is left to give, who is idle takes over
the end of what the other one still has before it.

Two sources behind one uplink give no more than one does: D/min(uplink, R1+R2). That shows when the slower one rests for a
moment: if the other is then as fast as both were, the slower one stays away, and comes back if the other one dies.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

LEAST = 256 * 1024  # bytes of a part, but at an end: a request for less would mostly wait
READ = 64 * 1024  # bytes that are read from a connection at a time, at most
_STEAL = 64 * 1024  # bytes that are worth a request of their own at the end
_LONG_ENOUGH = 2.0  # seconds that a part should take: of that, the time of a request is little
_STALLED = 5.0  # seconds without a byte, after which another one may have the part
_MEASURE = 2.0  # seconds that both are watched, before the slower one rests
_SETTLE = 0.5  # seconds until what it had asked for is out of the pipe
_REST = 3.0  # seconds that it rests altogether: less would be decided by chance
_WORTH_IT = 8  # times as long as it rests, both have to have before them: it is of no use to those who are done soon
_SURE = 0.75
_AT_ONCE = 2
_MEMORY = 3.0  # seconds that a rate looks back

Who = Hashable


@dataclass(slots=True)
class _Part:
    start: int
    at: int  # next byte
    end: int


@dataclass(slots=True)
class _Source:
    part: _Part | None = None
    total: int = 0  # bytes that came from it
    busy: float = 0.0  # seconds, falling off, in which `recent` bytes came
    recent: float = 0.0
    last: float | None = None  # when bytes came last, or were asked for

    @property
    def rate(self) -> float:
        """Bytes/s; 0 if nothing is known."""
        return self.recent / self.busy if self.busy > 0 else 0.0


@dataclass(slots=True)
class _Probe:
    """Who rests, and what the other had given when it was alone. Bytes/s while both played: the other's, and both."""

    resting: Who
    beside: float
    together: float
    begun: float
    alone_from: tuple[float, int] | None = None


@dataclass(slots=True, kw_only=True)
class Ranges:
    """`missing`: [start, end) in bytes, rising, apart. `cut`: the first place at or behind a byte where a part may end."""

    missing: Iterable[tuple[int, int]]
    cut: Callable[[int], int] = lambda place: place
    shared: bool | None = None  # whether the two share an uplink; None: not known
    _free: list[tuple[int, int]] = field(init=False)
    _sources: dict[Who, _Source] = field(init=False, default_factory=dict)
    _benched: Who | None = field(init=False, default=None)
    _probe: _Probe | None = field(init=False, default=None)
    _watched: tuple[float, dict[Who, int]] | None = field(
        init=False, default=None
    )  # since when, and what they had given

    def __post_init__(self) -> None:
        self._free = sorted((start, end) for start, end in self.missing if start < end)

    @property
    def done(self) -> bool:
        parts = [source.part for source in self._sources.values()]
        return not self._free and all(part is None or part.at >= part.end for part in parts)

    def join(self, who: Who) -> None:
        self._sources.setdefault(who, _Source())

    def leave(self, who: Who) -> None:
        """It gives nothing any more; the others get what it was at."""
        self.back(who)
        self._sources.pop(who, None)
        self._probe = self._watched = None
        self._benched = None

    def add(self, start: int, end: int) -> None:
        """Is missing too."""
        free: list[tuple[int, int]] = []
        for begin, stop in sorted([*self._free, (start, end)]):
            if free and free[-1][1] == begin:
                free[-1] = free[-1][0], stop
            else:
                free.append((begin, stop))
        self._free = free

    def rate(self, who: Who) -> float:
        return self._sources[who].rate

    def take(self, who: Who, now: float) -> tuple[int, int] | None:
        """The next part for one that has none. None: nothing right now, or nothing at all (`done`)."""
        if not self._plays(who, now):
            return None
        source = self._sources[who]
        if self._free:
            start, end = self._free[0]
            end = self._until(who, start, end)
            self._free[0:1] = [(end, self._free[0][1])] if end < self._free[0][1] else []
        else:
            taken = self._steal(who, now)
            if taken is None:
                return None
            start, end = taken
        source.part = _Part(start, start, end)
        source.last = now
        return start, end

    def took(self, who: Who, count: int, now: float) -> None:
        """So many bytes of its part came."""
        source = self._sources[who]
        if source.part is not None:
            source.part.at += count
        source.total += count
        elapsed = max(0.0, now - source.last) if source.last is not None else 0.0
        source.last = now
        keep = 0.5 ** (elapsed / _MEMORY)
        source.busy = source.busy * keep + elapsed
        source.recent = source.recent * keep + count
        self._look(now)

    def end(self, who: Who) -> int:
        """Where its part ends now: it may have become shorter."""
        source = self._sources.get(who)
        return source.part.end if source is not None and source.part is not None else 0

    def back(self, who: Who) -> None:
        """It has done its part, or will not do the rest of it."""
        source = self._sources.get(who)
        if source is None or source.part is None:
            return
        part, source.part = source.part, None
        if part.at < part.end:
            self.add(part.at, part.end)

    # -- who plays ------------------------------------------------------------------------------------------------

    def _plays(self, who: Who, now: float) -> bool:
        self._look(now)
        if who == self._benched or (self._probe is not None and who == self._probe.resting):
            return False
        playing = [one for one in self._sources if one != self._benched][:_AT_ONCE]
        return who in playing

    def _pair(self) -> tuple[Who, Who] | None:
        """The slower and the faster one, while two play and neither is known to be of no use."""
        playing = list(self._sources)[:_AT_ONCE]
        if len(playing) < _AT_ONCE or self._benched is not None or self.shared is not None:
            return None
        slower, faster = sorted(playing, key=self.rate)
        return slower, faster

    def _look(self, now: float) -> None:
        pair = self._pair()
        if pair is None:
            return
        if self._probe is not None:
            self._look_alone(self._probe, now)
            return
        both = [self._sources[one] for one in pair]
        if not all(one.part is not None and one.recent for one in both):
            return
        if self._watched is None:
            # Both have begun; what their first bytes waited for is past a little later.
            self._watched = now + _SETTLE, {}
        since, before = self._watched
        if not before:
            if now >= since:
                self._watched = now, {one: self._sources[one].total for one in pair}
            return
        left = sum(end - start for start, end in self._free)
        rates = {one: (self._sources[one].total - before[one]) / max(now - since, 1e-9) for one in pair}
        together = sum(rates.values())
        if now - since < _MEASURE or left < together * _WORTH_IT * _REST:
            return
        self._probe = _Probe(resting=pair[0], beside=rates[pair[1]], together=together, begun=now)
        resting = self._sources[pair[0]].part
        if resting is not None:
            # It may end where it is, or with the chunk that it is in.
            end = min(self.cut(resting.at + 1), resting.end)
            if end < resting.end:
                self.add(end, resting.end)
                resting.end = end

    def _look_alone(self, probe: _Probe, now: float) -> None:
        other = next(one for one in list(self._sources)[:_AT_ONCE] if one != probe.resting)
        given = self._sources[other].total
        if probe.alone_from is None:
            if now - probe.begun >= _SETTLE:
                probe.alone_from = now, given
            return
        since, before = probe.alone_from
        if now - probe.begun < _REST or now <= since:
            return
        alone = (given - before) / (now - since)
        # On a link of its own it gives what it gave, on a shared one all that both did. In doubt both go on: that costs
        # no time, while one too few does.
        self.shared = alone > probe.beside + _SURE * (probe.together - probe.beside)
        if self.shared:
            self._benched = probe.resting
        self._probe = None

    # -- how much -------------------------------------------------------------------------------------------------

    def _until(self, who: Who, start: int, end: int) -> int:
        if self._alone(who):
            return end
        mine = self.rate(who)
        others = [self.rate(one) for one in list(self._sources)[:_AT_ONCE] if one != who]
        size = LEAST
        if mine > 0 and all(others):
            left = sum(stop - begin for begin, stop in self._free)
            share = mine / (mine + sum(others))
            size = max(LEAST, min(int(left * share / 2), 2**30), min(int(mine * _LONG_ENOUGH), int(left * share)))
        return min(end, self.cut(min(start + size, end)))

    def _alone(self, who: Who) -> bool:
        return not any(one not in (who, self._benched) for one in list(self._sources)[:_AT_ONCE])

    def _steal(self, who: Who, now: float) -> tuple[int, int] | None:
        others = [(one, source.part) for one, source in self._sources.items() if source.part is not None and one != who]
        if not others:
            return None
        for one, part in others:
            last = self._sources[one].last
            if last is not None and now - last >= _STALLED and part.at < part.end:
                # It may hang for as long as its timeout says.
                start, end = part.at, part.end
                part.end = start
                return start, end
        victim, part = max(others, key=lambda one: (one[1].end - one[1].at) / max(self.rate(one[0]), 1e-9))
        mine, theirs = self.rate(who), self.rate(victim)
        keeps = theirs / (mine + theirs) if mine + theirs > 0 else 0.5
        # What it has in its hands just now would come twice.
        near = self.cut(self.cut(part.at + 1) + READ)
        start = max(near, self.cut(part.at + int((part.end - part.at) * keeps)))
        if start >= part.end or part.end - start < _STEAL:
            return None
        end, part.end = part.end, start
        return start, end
