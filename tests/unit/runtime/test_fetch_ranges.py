"""Who fetches what, on links that are simulated: a clock of its own, no sockets."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.fetch.ranges import Ranges

MB = 10**6
TICK = 0.01  # seconds


class Links:
    """Each source has a link of so many bytes/s; `uplink`: what all of them together may bring. `dies`: when one ends."""

    def __init__(
        self,
        ranges: Ranges,
        rates: Mapping[str, float],
        *,
        uplink: float = 1e18,
        dies: Mapping[str, float] | None = None,
    ) -> None:
        self.ranges = ranges
        self.rates = dict(rates)
        self.uplink = uplink
        self.dies = dict(dies or {})
        self.now = 0.0
        self.came: list[tuple[int, int]] = []
        self.by = dict.fromkeys(rates, 0)
        self._at: dict[str, int] = {}
        self._credit = dict.fromkeys(rates, 0.0)
        for one in rates:
            ranges.join(one)

    def run(self, limit: float = 10_000) -> float:
        """Seconds until nothing is missing."""
        while not self.ranges.done:
            assert self.now < limit and self.rates, "it stands still"
            self.now += TICK
            for one in [one for one, when in self.dies.items() if when <= self.now and one in self.rates]:
                self.ranges.leave(one)
                del self.rates[one]
                self._at.pop(one, None)
            busy = [one for one in self.rates if one in self._at]
            share = min(1.0, self.uplink / max(sum(self.rates[one] for one in busy), 1e-9))
            for one in busy:
                self._bring(one, self.rates[one] * share * TICK)
            for one in self.rates:
                if one not in self._at:
                    part = self.ranges.take(one, self.now)
                    if part is not None:
                        self._at[one] = part[0]
        return self.now

    def _bring(self, one: str, count: float) -> None:
        self._credit[one] += count
        start = self._at[one]
        size = max(0, min(int(self._credit[one]), self.ranges.end(one) - start))
        self._credit[one] -= size
        if size:
            self.came.append((start, start + size))
            self.by[one] += size
            self.ranges.took(one, size, self.now)
            self._at[one] = start + size
        if self._at[one] >= self.ranges.end(one):
            self.ranges.back(one)
            del self._at[one]
            self._credit[one] = 0.0

    def whole(self) -> list[tuple[int, int]]:
        """What came, put together; fails if a byte came twice."""
        found: list[tuple[int, int]] = []
        for start, end in sorted(self.came):
            assert not found or found[-1][1] <= start, f"{start} came twice"
            if found and found[-1][1] == start:
                found[-1] = found[-1][0], end
            else:
                found.append((start, end))
        return found


@pytest.mark.parametrize("scale", [0.02, 0.1, 1])  # MB: at the first, a request's worth is a good part of the file
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_two_separate_links_add_up(scale: float, order: str) -> None:
    """T_S = D/(R_E + R_C): 1000 over 100 + 500 takes 1.667 s."""
    size = int(1000 * scale * MB)
    rates = {"a": 100 * scale * MB, "b": 500 * scale * MB}
    links = Links(Ranges(missing=[(0, size)]), {one: rates[one] for one in order})
    seconds = links.run()
    assert links.whole() == [(0, size)]
    assert seconds == pytest.approx(1000 / 600, rel=0.15)
    assert links.by["b"] / links.by["a"] == pytest.approx(5, rel=0.3)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_links_that_stay_separate_for_long(order: str) -> None:
    """The look at whether they are separate costs less than what is allowed."""
    rates = {"a": 1.0 * MB, "b": 5.0 * MB}
    links = Links(Ranges(missing=[(0, 300 * MB)]), {one: rates[one] for one in order})
    assert links.run() == pytest.approx(300 / 6, rel=0.05)
    assert links.whole() == [(0, 300 * MB)] and links.ranges.shared is False


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_behind_one_uplink_the_second_source_is_left_alone(order: str) -> None:
    """T_S = D/min(uplink, sum), with one source as with two: so one is enough."""
    rates = {"a": 100.0 * MB, "b": 110.0 * MB}
    links = Links(Ranges(missing=[(0, 500 * MB)]), {one: rates[one] for one in order}, uplink=10.0 * MB)
    assert links.run() == pytest.approx(50, rel=0.05)
    assert links.whole() == [(0, 500 * MB)] and links.ranges.shared is True
    assert min(links.by.values()) < 50 * MB, "it was tried for some seconds"


def test_who_was_left_alone_takes_over_from_one_that_dies() -> None:
    links = Links(
        Ranges(missing=[(0, 500 * MB)]), {"a": 100.0 * MB, "b": 110.0 * MB}, uplink=10.0 * MB, dies={"b": 20.0}
    )
    assert links.run() == pytest.approx(50, rel=0.05)
    assert links.whole() == [(0, 500 * MB)] and links.by["a"] > 250 * MB


@given(
    gaps=st.lists(st.tuples(st.integers(1, 2_000_000), st.integers(1, 3_000_000)), min_size=1, max_size=5),
    rates=st.lists(st.integers(50_000, 5_000_000), min_size=1, max_size=3),
    dies=st.floats(0, 5),
    who=st.integers(0, 2),
    uplink=st.sampled_from([1e18, 300_000.0]),
    cut=st.sampled_from([1, 1000, 300_000]),
)
def test_every_missing_byte_comes_once(
    gaps: list[tuple[int, int]], rates: list[int], dies: float, who: int, uplink: float, cut: int
) -> None:
    """Whatever the links are, whoever dies as long as one is left."""
    missing, at = [], 0
    for space, size in gaps:
        missing.append((at + space, at + space + size))
        at += space + size
    ranges = Ranges(missing=missing, cut=lambda place: -(-place // cut) * cut)
    named = {str(number): float(rate) for number, rate in enumerate(rates)}
    ends = {str(who): dies} if str(who) in named and len(named) > 1 else {}
    links = Links(ranges, named, uplink=uplink, dies=ends)
    links.run()
    assert links.whole() == missing


def test_a_single_source_gets_each_gap_whole() -> None:
    """One request for each: what lies between is not asked for."""
    ranges = Ranges(missing=[(0, 10 * MB), (20 * MB, 50 * MB)])
    ranges.join("a")
    assert ranges.take("a", 0.0) == (0, 10 * MB)
    ranges.took("a", 10 * MB, 1.0)
    ranges.back("a")
    assert ranges.take("a", 1.0) == (20 * MB, 50 * MB)
    ranges.took("a", 30 * MB, 2.0)
    ranges.back("a")
    assert ranges.take("a", 2.0) is None and ranges.done


def test_what_turns_out_to_be_missing_is_given_too() -> None:
    ranges = Ranges(missing=[])
    ranges.join("a")
    assert ranges.done
    ranges.add(5, 9)
    ranges.add(9, 12)
    assert ranges.take("a", 0.0) == (5, 12)


def test_a_source_that_hangs_holds_up_nobody() -> None:
    ranges = Ranges(missing=[(0, 600_000)])
    for one in ("a", "b"):
        ranges.join(one)
    first = ranges.take("a", 0.0)
    second = ranges.take("b", 0.0)
    assert first is not None and second is not None
    part, came = first, 0
    for now in (1.0, 2.0, 3.0, 4.0, 4.9):
        while part is not None:
            came += part[1] - part[0]
            ranges.took("a", part[1] - part[0], now)
            ranges.back("a")
            part = ranges.take("a", now)
        assert not ranges.done, "it may just be slow"
    part = ranges.take("a", 5.0)
    assert part is not None and part[0] == second[0] and came + part[1] - part[0] == 600_000
    ranges.took("a", part[1] - part[0], 6.0)
    assert ranges.done, "whatever the other one still holds"
