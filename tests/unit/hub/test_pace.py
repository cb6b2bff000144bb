"""At once when idle, up to `longest` under load."""

from __future__ import annotations

from edgeward.hub.pace import Pace


def test_the_first_plan_and_any_after_a_quiet_while_begin_at_once() -> None:
    pace = Pace(1.0)
    assert pace.wait(0.0) == 0.0
    pace.planned(0.01, now=10.0)
    assert pace.wait(10.5) == 0.0


def test_right_after_a_plan_the_next_waits_twice_as_long_as_that_took() -> None:
    pace = Pace(1.0)
    pace.planned(0.03, now=10.0)
    assert round(pace.wait(10.0), 6) == 0.06
    assert round(pace.wait(10.04), 6) == 0.02


def test_a_burst_waits_a_second_at_most_and_no_longer_than_a_plan_takes() -> None:
    pace = Pace(1.0)
    pace.planned(0.7, now=10.0)
    assert pace.wait(10.0) == 1.0
    pace.planned(7.0, now=10.0)
    assert pace.wait(10.0) == 7.0, "half of the time is for what the plan wants written"


def test_a_burst_of_a_hundred_changes_makes_a_bounded_number_of_plans() -> None:
    """One change every 10 ms for a second, each plan 20 ms long: at most every 60 ms one, and the last change is planned."""
    pace, now, plans, pending = Pace(1.0), 0.0, [], 0
    arrivals = [number / 100 for number in range(100)]
    while arrivals or pending:
        if not pending:
            now = max(now, arrivals[0])
        now += pace.wait(now)
        pending = 0
        arrivals = [at for at in arrivals if at > now]
        plans.append(now)
        now += 0.02
        pace.planned(0.02, now=now)
        pending = sum(at <= now for at in arrivals)
    assert 15 <= len(plans) <= 18
    assert plans[0] == 0.0 and plans[-1] >= 0.99
