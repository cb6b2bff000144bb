"""Windows in a site's own time: the nights on which the clocks change included."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.api.assignment import Activation
from edgeward.api.common import seconds
from edgeward.api.modelrelease import Rollout, Window
from edgeward.fleet import windows
from edgeward.fleet.model import Site
from edgeward.fleet.windows import DAYS, Opening, UnknownTimeZone, activation, common, opening

ZURICH = "Europe/Zurich"
ZONES = ("UTC", ZURICH, "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Asia/Kolkata")


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def window(start: str, duration: str, *days: str) -> Window:
    return Window(days=days, start=start, duration=duration)


def test_without_windows_it_is_always_open():
    assert opening((), ZURICH, now=0.0).open


def test_a_window_opens_and_closes_by_the_clock_on_the_wall():
    nightly = [window("02:00", "3h")]
    assert opening(nightly, ZURICH, now=utc("2026-06-10T00:30")) == Opening(since=utc("2026-06-10T00:00"))
    assert opening(nightly, ZURICH, now=utc("2026-06-10T03:00")) == Opening(next=utc("2026-06-11T00:00"))
    assert opening(nightly, "UTC", now=utc("2026-06-10T00:30")) == Opening(next=utc("2026-06-10T02:00"))


def test_a_window_may_run_past_midnight_and_is_of_the_day_on_which_it_opens():
    friday = [window("23:00", "2h", "Fri")]
    assert opening(friday, "UTC", now=utc("2026-06-13T00:59")).open, "a Saturday"
    assert opening(friday, "UTC", now=utc("2026-06-13T01:00")) == Opening(next=utc("2026-06-19T23:00"))


def test_a_window_of_a_week_never_closes():
    always = [window("05:00", "168h", "Wed")]
    assert all(opening(always, ZURICH, now=utc("2026-03-25T04:00") + hour * 3600).open for hour in range(24 * 8))


def test_one_that_begins_in_the_hour_that_is_left_out_opens_at_the_change():
    """On 29 March 2026 clocks go from 02:00 to 03:00, at 01:00 UTC."""
    found = opening([window("02:30", "2h")], ZURICH, now=utc("2026-03-29T00:00"))
    assert found == Opening(next=utc("2026-03-29T01:00"))
    assert opening([window("02:30", "2h")], ZURICH, now=utc("2026-03-29T02:29")).open
    assert not opening([window("02:30", "2h")], ZURICH, now=utc("2026-03-29T02:30")).open, "04:30 on the wall"


def test_one_that_lies_in_the_hour_that_is_left_out_falls_out():
    sunday = [window("02:10", "30m", "Sun")]
    assert opening(sunday, ZURICH, now=utc("2026-03-28T12:00")) == Opening(next=utc("2026-04-05T00:10"))


def test_one_that_begins_in_the_hour_that_comes_twice_opens_once_at_the_first():
    """On 25 October 2026 clocks go from 03:00 back to 02:00, at 01:00 UTC: 02:30 is at 00:30 and at 01:30 UTC."""
    short = [window("02:30", "20m")]
    assert opening(short, ZURICH, now=utc("2026-10-25T00:00")) == Opening(next=utc("2026-10-25T00:30"))
    assert opening(short, ZURICH, now=utc("2026-10-25T01:35")) == Opening(next=utc("2026-10-26T01:30"))
    over = [window("02:30", "2h")]
    assert all(opening(over, ZURICH, now=utc("2026-10-25T00:30") + minute * 60).open for minute in range(180))
    assert not opening(over, ZURICH, now=utc("2026-10-25T03:30")).open, "04:30 on the wall"


def test_never_before_the_moment_that_is_set():
    at = utc("2026-06-10T12:00")
    assert opening((), "UTC", now=at - 1, not_before=at) == Opening(next=at)
    assert opening((), "UTC", now=at, not_before=at) == Opening(since=at)
    nightly = [window("02:00", "3h")]
    assert opening(nightly, "UTC", now=at - 86400, not_before=at) == Opening(next=utc("2026-06-11T02:00"))
    noon = [window("11:00", "3h")]
    assert opening(noon, "UTC", now=at - 1800, not_before=at) == Opening(next=at)
    far = utc("9999-12-31T00:00")
    assert opening(nightly, "UTC", now=at, not_before=far) == Opening(next=far)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "Europe", "/etc/localtime"])
def test_a_time_zone_that_nobody_knows(zone):
    with pytest.raises(UnknownTimeZone, match="no time zone"):
        opening([window("02:00", "3h")], zone, now=0.0)
    asked = Activation(windows=[window("02:00", "3h")], time_zone=zone)
    assert windows.of(asked, now=0.0) == Opening(), "it protects"


def test_release_and_site_must_both_be_open():
    rollout = Rollout(activation_time="2026-06-10T12:00:00Z", windows=[window("22:00", "8h")])
    site = Site(name="a", tier="edge", time_zone=ZURICH, windows=(window("02:00", "24h", "Sun"),))
    assert activation(rollout, site) == Activation(
        not_before="2026-06-10T12:00:00Z",
        windows=(window("02:00", "4h", "Sun"), window("22:00", "4h", "Sun")),
        time_zone=ZURICH,
    )
    assert activation(None, site).windows == site.windows
    assert activation(rollout, None).windows == rollout.windows
    assert activation(Rollout(), Site(name="a", tier="edge", time_zone=ZURICH)) is None


def test_windows_that_never_meet_never_open():
    (never,) = common([window("01:00", "1h")], [window("02:00", "1h")])
    assert opening([never], "UTC", now=utc("2026-06-10T01:30")) == Opening()


def test_one_over_the_end_of_the_week_stays_one():
    assert common([window("22:00", "4h", "Sun")], [window("00:00", "24h")]) == (window("22:00", "4h", "Sun"),)


def test_what_does_not_fit_an_assignment_is_closed():
    many = [window(f"{hour:02}:{10 * part:02}", f"{part + 1}m", DAYS[part]) for hour in range(24) for part in range(6)]
    assert len(common(many, [window("00:00", "24h")])) == 32


_WINDOWS = st.lists(
    st.builds(
        Window,
        days=st.lists(st.sampled_from(DAYS), unique=True, max_size=7).map(tuple),
        start=st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 1, 30, 59])),
        duration=st.sampled_from(["1m", "20m", "90s", "1h", "3h", "24h", "30h", "160h"]),
    ),
    min_size=1,
    max_size=4,
)
_CHANGES = [
    utc(text)
    for text in ("2026-03-29T01:00", "2026-10-25T01:00", "2026-04-04T15:00", "2026-10-03T15:30", "2026-11-01T04:30")
]
_TIMES = st.builds(lambda at, by: at + by * 60.0, st.sampled_from(_CHANGES), st.integers(-3 * 24 * 60, 3 * 24 * 60))


@given(_WINDOWS, st.sampled_from(ZONES), _TIMES)
def test_it_opens_when_it_says_and_not_before(found, zone, now):
    at = opening(found, zone, now=now)
    if at.open:
        assert at.since <= now
        assert opening(found, zone, now=max(at.since, now - 86400)).open
        return
    assert at.next > now
    assert opening(found, zone, now=at.next).open
    assert opening(found, zone, now=at.next - 0.001) == at
    between = now + (at.next - now) / 2
    assert opening(found, zone, now=between) == at


@given(_WINDOWS, st.sampled_from(ZONES), _TIMES)
def test_away_from_changes_it_is_open_when_the_wall_says_so(found, zone, now):
    place = ZoneInfo(zone)
    wall = datetime.fromtimestamp(now, place)
    near = [wall.astimezone(UTC) + timedelta(hours=hours) for hours in range(-8 * 24, 2 * 24, 1)]
    if len({one.astimezone(place).utcoffset() for one in near}) > 1:
        return
    says = False
    for one in found:
        hour, minute = map(int, one.start.split(":"))
        for back in range(9):
            day = wall.date() - timedelta(days=back)
            begins = datetime(day.year, day.month, day.day, hour, minute)
            within = begins <= wall.replace(tzinfo=None) < begins + timedelta(seconds=seconds(one.duration))
            says |= within and DAYS[day.weekday()] in (one.days or DAYS)
    assert opening(found, zone, now=now).open == says


@given(_WINDOWS, _WINDOWS, st.sampled_from(ZONES), _TIMES)
def test_what_is_common_is_open_when_both_are(first, second, zone, now):
    both = opening(first, zone, now=now).open and opening(second, zone, now=now).open
    assert opening(common(first, second), zone, now=now).open == both
