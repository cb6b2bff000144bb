"""The rollout's state machine: its rules one by one, then anything that can happen to it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.rollout.machine import advance
from edgeward.rollout.model import Command, Decision, Facts, Gate, Hold, Outcome, Phase, Refused, Sample, Strategy, Wave

from .simulation import ERRORS, Site, World, town

WAVES = (Wave(name="canary", count=1, bake=60), Wave(name="half", percent=50), Wave(name="all"))


def told(world: World, version: str = "v1") -> int:
    return sum(1 for site in world.sites.values() if version in (site.told, site.beside))


# -- waves ------------------------------------------------------------------------------------------------------------


def test_without_waves_everybody_is_told_at_once() -> None:
    world = town(5)
    world.operator()
    assert told(world) == 5
    assert world.settle().progress.phase is Phase.DONE and world.stable == "v1"


def test_a_canary_then_half_then_all() -> None:
    world = town(10, strategy=Strategy(waves=WAVES))
    seen = []
    for _ in range(40):
        world.operator()
        if told(world) not in seen:
            seen.append(told(world))
        for site in world.sites.values():
            site.change()
        world.now += 10
    assert seen == [1, 5, 10]
    assert world.progress is not None and world.progress.phase is Phase.DONE


def test_per_cent_is_of_the_connected_sites_cumulative_and_rounded_up() -> None:
    waves = (Wave(name="a", percent=25, bake=1e9), Wave(name="b"))
    world = town(9, strategy=Strategy(waves=waves))
    for name in ("s07", "s08"):
        world.sites[name].connected = False
    world.settle()
    assert told(world) == 2  # a quarter of seven


def test_a_waves_sites_are_frozen_when_it_begins() -> None:
    world = town(4, strategy=Strategy(waves=(Wave(name="a", percent=50, bake=1e9), Wave(name="b"))))
    world.settle()
    first = {name for name, site in world.sites.items() if site.serves == "v1"}
    for index in range(20, 40):
        world.sites[f"s{index}"] = Site(told="v0", serves="v0")
    world.settle()
    assert {name for name, site in world.sites.items() if site.serves == "v1"} == first


def test_named_and_selected_sites() -> None:
    waves = (Wave(name="named", names=frozenset({"s03"})), Wave(name="rest", bake=1e9))
    world = town(5, strategy=Strategy(waves=waves))
    world.operator()
    assert [name for name, site in world.sites.items() if site.told == "v1"] == ["s03"]


def test_at_most_so_many_change_at_once() -> None:
    world = town(10, strategy=Strategy(waves=(Wave(name="all", max_concurrent=3),)))
    world.operator()
    world.operator()
    assert told(world) == 3
    assert world.settle().progress.phase is Phase.DONE


def test_a_wave_without_a_successful_site_never_passes() -> None:
    world = town(3, strategy=Strategy(waves=(Wave(name="far", names=frozenset({"s00"})), Wave(name="all"))))
    world.sites["s00"].connected = False
    decision = world.settle()
    assert told(world) == 0 and "wave far" in decision.waits_for
    world.sites["s00"].connected = True
    assert world.settle().progress.phase is Phase.DONE


def test_a_wave_whose_sites_were_taken_before_is_over() -> None:
    world = town(1, strategy=Strategy(waves=(Wave(name="a", count=1), Wave(name="b", count=5), Wave(name="c"))))
    assert world.settle().progress.phase is Phase.DONE


def test_another_version_begins_with_another_site() -> None:
    firsts = set()
    for version in range(20):
        world = town(10, strategy=Strategy(waves=WAVES), target=f"w{version}")
        world.operator()
        firsts |= {name for name, site in world.sites.items() if site.told == f"w{version}"}
    assert len(firsts) > 4


# -- sites that are away ----------------------------------------------------------------------------------------------


def test_a_site_that_is_away_is_not_in_the_way_and_goes_straight_to_the_newest_when_it_is_back() -> None:
    world = town(4, strategy=Strategy(waves=WAVES, gates=(ERRORS,)))
    world.sites["s02"].connected = False
    for version in ("v1", "v2", "v3"):
        world.target = version
        assert world.settle().progress.phase is Phase.DONE
    assert world.sites["s02"].serves == "v0"
    world.sites["s02"].connected = True
    world.operator()
    assert world.sites["s02"].told == "v3", "no wave, no other version between"


def test_downloads_are_paced_also_for_those_that_come_back() -> None:
    world = town(12, strategy=Strategy(concurrent=2))
    for site in list(world.sites.values())[4:]:
        site.connected = False
    world.settle()
    for site in world.sites.values():
        site.connected = True
    for _ in range(30):
        world.operator()
        on_the_way = [site for site in world.sites.values() if site.told == "v1" and site.serves != "v1"]
        assert len(on_the_way) <= 2
        for site in world.sites.values():
            site.change()
    assert world.serving() == {"v1": 12}


# -- gates ------------------------------------------------------------------------------------------------------------


def gated(**more: Any) -> World:
    return town(6, strategy=replace(Strategy(waves=WAVES, gates=(ERRORS,)), **more))


def test_a_gate_that_fails_takes_everybody_back_to_the_version_that_finished() -> None:
    world = gated()
    for _ in range(3):
        world.operator()
        for site in world.sites.values():
            site.change()
    world.now += 15
    world.look(9.0)
    decision = world.operator()
    assert (
        decision.progress.phase is Phase.ROLLED_BACK and "gate errors: 9, allowed is at most 2" in decision.progress.why
    )
    assert told(world) == 0 and world.refused[0].version == "v1"
    assert world.settle().progress.phase is Phase.ROLLED_BACK
    assert world.serving() == {"v0": 6}, "the spec still asks for v1, and it is not tried again"


def test_agreement_is_asked_of_the_waves_that_make_copies_and_not_of_the_first_version() -> None:
    agreement = replace(
        ERRORS, name="agreement", builtin="Agreement", max=None, min=0.9, count=1, passes_needed=1, min_samples=0
    )
    canary, rest = Wave(name="canary", count=1, bake=60, mirror=100), Wave(name="all", bake=60)
    world = watched(gated(waves=(canary, rest), gates=(agreement,)))

    def bake() -> Phase:
        for _ in range(20):
            world.now += 10
            for site in world.sites.values():
                site.change()
            decision = world.operator()
        return decision.progress.phase

    assert bake() is Phase.BAKING, "nothing is known of the copies"
    world.look(1.0)
    world.now += 10
    world.operator()
    world.verdicts = {}
    assert bake() is Phase.DONE
    assert world.progress is not None
    assert [(look.gate, look.value) for look in world.progress.looks] == [("agreement", 1.0)], "it stays to be read"
    none = watched(gated(waves=(replace(canary, mirror=0), rest), gates=(agreement,)))
    for _ in range(20):
        none.now += 10
        decision = none.operator()
    assert decision.progress.phase is Phase.BAKING and decision.no_data, "no wave makes copies: it waits, and says so"


def watched(world: World) -> World:
    """Until the first wave bakes."""
    for _ in range(2):
        world.operator()
        for site in world.sites.values():
            site.change()
    assert world.operator().progress.phase is Phase.BAKING
    return world


@pytest.mark.parametrize("error", ["", "connection refused"])
def test_neither_no_data_nor_a_question_that_cannot_be_asked_promotes_or_takes_back(error: str) -> None:
    world = watched(gated())
    for _ in range(20):
        world.now += 10
        world.look(None, error=error)
        decision = world.operator()
    assert told(world) == 1 and decision.progress.phase is Phase.BAKING and decision.no_data
    assert f"gate errors ({'Error: connection refused' if error else 'NoData: no value'})" in decision.waits_for
    before = decision.progress
    world.now += 10
    world.look(None, error=error)
    assert world.operator().progress == before, "the same again is no reason to write"
    world.now += 10
    world.look(1.0)
    assert not world.operator().no_data


def test_with_on_no_data_fail_the_fifth_error_in_a_row_fails() -> None:
    world = watched(gated(gates=(replace(ERRORS, no_data_fails=True),)))
    for number in range(1, 11):
        world.now += 10
        world.look(1.0 if number == 5 else None, error="" if number == 5 else "connection refused")
        decision = world.operator()
        assert (decision.progress.phase is Phase.ROLLED_BACK) == (number == 10)
    assert "gate errors: connection refused" in decision.progress.why


def test_a_report_that_does_not_come_is_no_data() -> None:
    world = watched(gated())
    world.look(1.0)  # of the beginning: nothing was seen yet
    for _ in range(6):
        world.now += 10
        decision = world.operator()
    assert (
        decision.progress.phase is Phase.BAKING
        and "NoData: no report in time: nobody has reported" in decision.waits_for
    )
    assert not decision.progress.looks[0].looks


def test_an_operator_that_was_away_does_not_take_the_silence_for_a_failure() -> None:
    """It used to: with onNoData: Fail, whoever led after a break of two intervals took the version back at once."""
    world = watched(gated(gates=(replace(ERRORS, no_data_fails=True, count=1),)))
    world.now += 3600
    assert world.operator().progress.phase is Phase.BAKING
    world.now += 12
    world.look(1.0)
    assert world.operator().progress.wave == 1
    world = watched(gated(gates=(replace(ERRORS, no_data_fails=True),)))
    for _ in range(12):
        world.now += 10
        decision = world.operator()
    assert decision.progress.phase is Phase.ROLLED_BACK and "no report in time" in decision.progress.why


def test_each_variant_is_judged_on_its_own() -> None:
    def step(world: World, values: dict[str, float]) -> Phase:
        world.now += 10
        samples = {("errors", variant): Sample(at=world.now, value=value) for variant, value in values.items()}
        decision = advance(replace(world.facts(), samples=samples, variants=tuple(values)))
        world.progress = decision.progress
        return decision.progress.phase

    world = watched(gated())
    for _ in range(3):
        assert step(world, {"": 1.0, "sha256:arm": 1.0}) is Phase.BAKING
    assert step(world, {"": 1.0, "sha256:arm": 9.0}) is Phase.ROLLED_BACK
    assert world.progress is not None and "gate errors of variant sha256:arm: 9" in world.progress.why
    world = watched(gated(gates=(replace(ERRORS, min_samples=0),)))
    while world.now < 1100:
        samples = {("errors", ""): Sample(at=world.now, value=1.0)}
        decision = advance(replace(world.facts(), samples=samples, variants=("", "sha256:arm")))
        world.now, world.progress = world.now + 10, decision.progress
    assert decision.progress.phase is Phase.BAKING, "one variant that passes does not speak for the other"


def test_what_was_seen_stays_to_be_read_and_counts_for_nothing_in_the_next_wave() -> None:
    world = watched(gated())
    while world.progress is not None and world.progress.wave == 0:
        world.now += 10
        world.look(1.0)
        decision = world.operator()
    assert decision.progress.looks[0].outcome is Outcome.PASSED
    for site in world.sites.values():
        site.change()
    (look,) = world.operator().progress.looks
    assert world.progress.phase is Phase.BAKING
    assert (look.looks, look.passes, look.outcome) == (0, 0, Outcome.WAITING) and look.checks
    assert look.checks[0].outcome is Outcome.PASSED and look.value == 1.0


def test_too_few_samples_are_no_data() -> None:
    world = gated(gates=(replace(ERRORS, min_samples=100),))
    for _ in range(20):
        world.now += 10
        world.look(1.0, samples=99)
        for site in world.sites.values():
            site.change()
        world.operator()
    assert told(world) == 1


def test_on_no_data_fail() -> None:
    world = gated(gates=(replace(ERRORS, no_data_fails=True),))
    for _ in range(20):
        world.now += 10
        world.look(None)
        for site in world.sites.values():
            site.change()
        world.operator()
    assert world.progress is not None and world.progress.phase is Phase.ROLLED_BACK


def test_the_warm_up_is_not_looked_at_and_one_sample_counts_once() -> None:
    world = gated(gates=(replace(ERRORS, initial_delay=40.0),))
    world.operator()
    for site in world.sites.values():
        site.change()
    world.operator()
    since = world.now
    world.now += 30
    world.look(99.0)
    assert world.operator().progress.phase is Phase.BAKING
    world.now = since + 50
    world.look(1.0)
    for _ in range(3):
        decision = world.operator()
    assert decision.progress.looks[0].looks == 1


@pytest.mark.parametrize(("values", "phase"), [((1, 9, 1, 1), "passes"), ((9, 9), Phase.ROLLED_BACK)])
def test_failures_within_the_limit_need_new_passes_in_a_row(values: tuple[float, ...], phase: Any) -> None:
    world = gated(gates=(replace(ERRORS, failure_limit=1, passes_needed=2),))
    world.operator()
    for site in world.sites.values():
        site.change()
    world.operator()
    for value in values:
        world.now += 20
        world.look(value)
        decision = world.operator()
    assert (decision.progress.wave > 0) if phase == "passes" else decision.progress.phase is phase


def test_against_the_version_before() -> None:
    gate = Gate(name="errors", max=1.05, baseline=True)
    world = gated(gates=(gate,))
    world.operator()
    for site in world.sites.values():
        site.change()
    world.operator()
    world.now += 61
    world.look(1.06)  # the baseline is 1
    assert "1.06, allowed is at most 1.05" in world.operator().progress.why


def test_traffic_lasts_through_the_bake_of_its_wave() -> None:
    world = town(
        4, strategy=Strategy(waves=(Wave(name="canary", count=1, traffic=10, mirror=5, bake=60), Wave(name="all")))
    )
    decision = world.operator()
    (canary,) = [name for name, site in world.sites.items() if site.beside == "v1"]
    assert (decision.told[canary].version, decision.told[canary].traffic, decision.told[canary].mirror) == ("v0", 10, 5)
    for _ in range(5):
        world.now += 10
        for site in world.sites.values():
            site.change()
        world.operator()
        assert world.sites[canary].beside == "v1" and told(world) == 1
    world.now += 30
    world.operator()
    assert world.sites[canary] == Site(told="v1", serves="v1")
    assert told(world) == 4


# -- back -------------------------------------------------------------------------------------------------------------


def test_one_site_that_refuses_keeps_what_it_serves_and_is_counted() -> None:
    world = town(6, strategy=Strategy(waves=(Wave(name="half", percent=50), Wave(name="all"))))
    world.sites["s03"].refuses = {"v1"}
    assert world.settle().progress.phase is Phase.DONE
    assert world.serving() == {"v0": 1, "v1": 5}


def test_most_sites_that_refuse_take_all_back() -> None:
    world = town(6, strategy=Strategy(waves=(Wave(name="half", percent=50), Wave(name="all"))))
    for site in world.sites.values():
        site.refuses = {"v1"}
    decision = world.settle()
    assert decision.progress.phase is Phase.ROLLED_BACK and "sites refuse it" in decision.progress.why


def test_without_automatic_rollback_it_waits_for_a_person() -> None:
    world = gated(automatic_rollback=False)
    world.settle(steps=3, passing=False)
    world.now += 20
    world.look(9.0)
    decision = world.operator()
    assert decision.progress.hold is Hold.GATE_FAILED and "promote, abort or retry" in decision.waits_for
    assert told(world) == 1
    world.command = Command(verb="abort", token="t1")
    assert world.operator().progress.phase is Phase.ROLLED_BACK
    assert world.settle().progress.phase is Phase.ROLLED_BACK and world.serving() == {"v0": 6}


def test_the_first_version_of_all_has_no_way_back_and_goes_everywhere() -> None:
    world = World(sites={f"s{index}": Site() for index in range(3)}, strategy=Strategy(waves=WAVES, gates=(ERRORS,)))
    world.operator()
    assert told(world) == 3
    for site in world.sites.values():
        site.change()
    world.operator()
    world.now += 20
    world.look(9.0)
    decision = world.operator()
    assert decision.progress.hold is Hold.GATE_FAILED and "no version to go back to" in decision.progress.why
    assert world.serving() == {"v1": 3}


def test_a_version_that_comes_in_the_middle_begins_anew_and_the_way_back_stays() -> None:
    world = gated()
    world.settle(steps=4)
    assert world.serving()["v1"] == 1
    world.target = "v2"
    decision = world.operator()
    assert decision.progress.target == "v2" and decision.progress.wave == 0 and decision.progress.looks == ()
    world.settle(steps=2, passing=False)
    world.now += 20
    world.look(9.0)
    world.operator()
    assert world.progress is not None and world.progress.phase is Phase.ROLLED_BACK
    world.settle()
    assert world.stable == "v0" and "v2" not in world.serving()


def test_a_release_deleted_and_made_again_after_a_rollback_does_not_try_it_again() -> None:
    """Its status is gone; what the sites trust, and what they were told to refuse, is not."""
    world = gated()
    world.settle(steps=3, passing=False)
    world.now += 20
    world.look(9.0)
    world.operator()
    world.settle()
    world.progress = world.stable = None
    world.settle()
    assert world.stable is None or world.stable == "v0"
    assert world.serving() == {"v0": 6}
    world.command = Command(verb="retry", token="again")
    assert world.settle().progress.phase is Phase.DONE and world.serving() == {"v1": 6}


def test_a_hub_that_lost_its_memory_finds_a_finished_rollout_finished() -> None:
    world = gated()
    world.settle()
    world.progress = world.stable = None
    decision = world.operator()
    assert decision.progress.phase is Phase.DONE and decision.stable == "v1" and decision.turns == ()


# -- commands ---------------------------------------------------------------------------------------------------------


def test_pause_and_promote() -> None:
    world = gated()
    world.command = Command(verb="pause", token="1")
    decision = world.settle()
    assert told(world) == 0 and "paused by command" in decision.waits_for
    world.command = Command(verb="promote", token="2")
    assert world.settle().progress.phase is Phase.DONE


def test_promote_passes_the_wave_that_bakes() -> None:
    world = town(6, strategy=Strategy(waves=(Wave(name="canary", count=1, bake=1e9), Wave(name="all"))))
    world.settle()
    assert told(world) == 1
    world.command = Command(verb="promote", token="1")
    assert world.settle().progress.phase is Phase.DONE


def test_a_command_is_acted_on_once() -> None:
    world = gated()
    world.command = Command(verb="abort", token="1")
    assert world.operator().progress.phase is Phase.ROLLED_BACK
    world.refused = ()
    world.progress = replace(world.progress, phase=Phase.ROLLING) if world.progress else None
    assert world.operator().progress.phase is not Phase.ROLLED_BACK


def test_spec_paused_always_holds() -> None:
    world = gated(paused=True)
    world.command = Command(verb="promote", token="1")
    world.settle()
    assert told(world) == 0


def test_a_deadline_takes_back() -> None:
    world = gated(deadline=100.0)
    world.sites["s00"].connected = True
    for _ in range(20):
        world.now += 10
        world.operator()
    assert world.progress is not None and world.progress.phase is Phase.ROLLED_BACK
    assert "deadline of 100 s" in world.progress.why


# -- anything that can happen -----------------------------------------------------------------------------------------

strategies = st.builds(
    Strategy,
    waves=st.sampled_from(
        [
            (),
            WAVES,
            (Wave(name="two", count=2, traffic=10, bake=30), Wave(name="all", max_concurrent=2)),
            (Wave(name="named", names=frozenset({"s00", "s01"})), Wave(name="most", percent=80, bake=20)),
        ]
    ),
    gates=st.sampled_from(
        [
            (),
            (ERRORS,),
            (replace(ERRORS, failure_limit=1), Gate(name="late", min=0.5, initial_delay=30)),
            (replace(ERRORS, count=0, baseline=True), Gate(name="strict", min=0.5, no_data_fails=True, interval=5.0)),
        ]
    ),
    max_unavailable=st.sampled_from([None, 1, 2]),
    concurrent=st.sampled_from([None, 1, 2]),
    deadline=st.sampled_from([None, 500.0]),
    automatic_rollback=st.booleans(),
)
names = st.sampled_from([f"s{index:02}" for index in range(5)])
events = st.one_of(
    st.tuples(st.just("leaves"), names),
    st.tuples(st.just("returns"), names),
    st.tuples(st.just("changes"), names),
    st.tuples(st.just("refuses"), names),
    st.tuples(st.just("breaks"), names),
    st.tuples(st.just("operator"), st.none()),
    st.tuples(st.just("dies"), st.integers(0, 6)),
    st.tuples(st.just("clock"), st.floats(-30, 120) | st.just(600.0)),
    st.tuples(st.just("look"), st.sampled_from([1.0, 9.0, None, 0.2])),
    st.tuples(st.just("late"), st.floats(0, 200)),
    st.tuples(st.just("error"), st.none()),
    st.tuples(st.just("version"), st.sampled_from(["v1", "v2", "v3"])),
    st.tuples(st.just("command"), st.sampled_from(["pause", "promote", "abort", "retry"])),
    st.tuples(st.just("forgets"), st.none()),
    st.tuples(st.just("shuts"), names),
    st.tuples(st.just("opens"), names),
    st.tuples(st.just("gone"), names),
    st.tuples(st.just("waves"), st.sampled_from([(), WAVES, WAVES[:1], (Wave(name="some", count=1), *WAVES)])),
)


def happen(world: World, kind: str, what: Any, number: int) -> None:
    match kind:
        case "leaves":
            world.sites[what].connected = False
        case "returns":
            world.sites[what].connected = True
        case "changes":
            world.sites[what].change()
        case "refuses":
            world.sites[what].refuses.add(world.target)
        case "breaks":
            world.sites[what].broken = not world.sites[what].broken
        case "operator":
            world.operator()
        case "dies":
            world.operator(dies_after=what)
        case "clock":
            world.now += what
        case "look":
            world.look(what)
        case "late":
            world.look(1.0, age=what)
        case "error":
            world.look(None, error="nobody answers")
        case "version":
            world.target = what
        case "command":
            world.command = Command(verb=what, token=f"token-{number}")
        case "forgets":
            world.progress = None
        case "shuts":
            world.sites[what].opened = math.inf
        case "opens":
            world.sites[what].opened = world.now
        case "gone" if len(world.sites) > 1:
            del world.sites[what]
        case "waves":
            world.strategy = replace(world.strategy, waves=what)


def gates_hold(facts: Facts, decision: Decision) -> None:
    """No wave is left but through its gates, each by a look of this wave that passed; and what nobody could see is neither
    a pass nor a way back."""
    before, after = facts.progress, decision.progress
    if before is None or before.target != after.target:
        return
    commanded = after.token != before.token
    compared = decision.stable not in (None, after.target)
    gates = [gate for gate in facts.strategy.gates if compared or not gate.baseline]
    if after.wave > before.wave and not commanded:
        assert after.wave == before.wave + 1 or not gates
        looks = {one.gate: one for one in after.looks}
        for gate in gates:
            look = looks[gate.name]
            last = look.checks[0]
            assert last.outcome is Outcome.PASSED
            assert last.at >= (before.baking_since or facts.now) + gate.initial_delay
            if look.outcome is not Outcome.WAITING:  # else the next wave bakes already, and its looks begin anew
                assert look.looks >= max(gate.count, 1) and look.passes >= gate.passes_needed
                assert look.failures <= gate.failure_limit
    if after.why.startswith("gate") and after.why != before.why:
        blamed = next(one for one in after.looks if after.why.startswith(f"gate {one.gate}"))
        limit = next(gate for gate in facts.strategy.gates if gate.name == blamed.gate)
        seen = [one for one in blamed.checks if one.outcome is Outcome.FAILED]
        assert seen or limit.no_data_fails


def check(world: World) -> None:
    """What holds after every whole step of the operator."""
    facts = world.facts()
    decision = advance(facts)
    gates_hold(facts, decision)
    world.progress, world.stable, world.refused = decision.progress, decision.stable, decision.refused
    before = {one.name: one for one in facts.members}
    gone = {one.version for one in decision.refused}
    newly = [
        name
        for name, one in decision.told.items()
        if world.target in (one.version, one.beside) and before[name].told != world.target
    ]
    if decision.progress.phase is Phase.ROLLED_BACK:
        assert not newly
        assert all(one.beside is None and one.version not in gone for one in decision.told.values())
    if (
        world.strategy.waves
        and decision.stable not in (None, world.target)
        and decision.progress.phase is not Phase.DONE
    ):
        wave = decision.progress.wave
        allowed = decision.progress.members if wave < len(world.strategy.waves) else before
        assert all(name in allowed or before[name].serves == world.target for name in newly), "out of its wave"
    if decision.stable not in (None, world.target):
        going = [
            one.name
            for one in facts.members
            if (one.told == world.target or one.name in newly) and one.serves != world.target and not one.refused
        ]
        unavailable = {one.name for one in facts.members if one.connected and not one.available}
        at_risk = [name for name in newly if name not in unavailable and before[name].serves != world.target]
        if at_risk and world.strategy.max_unavailable is not None:
            assert len(unavailable | set(going)) <= world.strategy.max_unavailable
        if any(before[name].serves != world.target for name in newly) and world.strategy.concurrent is not None:
            assert sum(1 for name in going if not before[name].staged) <= world.strategy.concurrent
    late = [one for one in facts.members if one.connected and one.told == world.target and one.staged]
    if decision.progress.why.startswith("not done within") and "RolledBack" in decision.turns:
        assert not any(one.begins == math.inf and not one.refused for one in late), "it only waited for its window"
    for name, one in decision.told.items():
        assert one.version is not None or before[name].told is None or decision.stable is None
        world.tell(name, one)
    again = advance(world.facts())
    assert again.progress == decision.progress and again.told == decision.told, (
        "a step that is repeated changes nothing"
    )


seen = st.lists(st.sampled_from([1.0, 1.0, None, "error", "late", 9.0]), min_size=1, max_size=6)


@given(strategies, st.lists(events, max_size=40), seen, st.integers(1, 5))
def test_whatever_happens_its_rules_hold_and_it_ends(
    strategy: Strategy, story: list[tuple[str, Any]], values: list[Any], count: int
) -> None:
    world = town(count, strategy=strategy)
    for number, (kind, what) in enumerate(story):
        if isinstance(what, str) and what.startswith("s") and what not in world.sites:
            continue
        happen(world, kind, what, number)
        if kind in ("operator", "dies"):
            check(world)
    # Sites do what they are told, and what the gates see is of every kind.
    for number in range(30):
        world.now += 10
        value = values[number % len(values)]
        happen(world, value if isinstance(value, str) else "look", 60.0 if value == "late" else value, number)
        for site in world.sites.values():
            site.change()
        world.operator()
    # From here on everybody is there and all is well: whoever is not held ends on the target or on the way back.
    world.command = (
        Command(verb="retry", token="end") if world.progress and world.progress.hold is not Hold.NONE else None
    )
    world.strategy = replace(world.strategy, deadline=None)
    for site in world.sites.values():
        site.connected, site.broken, site.opened = True, False, world.now
    decision = world.settle(steps=120, seconds=30.0)
    if decision.progress.hold is Hold.NONE:
        assert decision.progress.phase in (Phase.DONE, Phase.ROLLED_BACK), decision.waits_for
        ends = world.target if decision.progress.phase is Phase.DONE else decision.stable
        for site in world.sites.values():
            assert site.serves == ends or site.told in site.refuses or site.beside in site.refuses or ends is None
    for facts, decided in world.steps:
        gates_hold(facts, decided)


windowed = st.one_of(
    st.tuples(st.sampled_from(["shuts", "opens", "changes"]), st.sampled_from(["s00", "s01"])),
    st.tuples(st.just("operator"), st.none()),
    st.tuples(st.just("clock"), st.just(600.0)),
)


@given(st.lists(windowed, max_size=20))
def test_waiting_for_a_window_is_never_too_late(story: list[tuple[str, Any]]) -> None:
    world = town(2, strategy=Strategy(deadline=500.0))
    for site in world.sites.values():
        site.opened = math.inf
    world.operator()
    for site in world.sites.values():
        site.change()
    for number, (kind, what) in enumerate([("clock", 600.0), *story]):
        happen(world, kind, what, number)
        check(world)


@given(st.lists(events, max_size=25))
def test_no_version_that_failed_comes_back_by_itself(story: list[tuple[str, Any]]) -> None:
    world = town(4, strategy=Strategy(waves=WAVES, gates=(ERRORS,)))
    world.refused = (Refused(version="v1", reason="gate errors", at=0.0),)
    for number, (kind, what) in enumerate(story):
        if kind in ("version", "command") or (isinstance(what, str) and what not in world.sites):
            continue
        happen(world, kind, what, number)
        world.operator()
        assert told(world) == 0 and "v1" not in world.serving()


# -- what was found by trying to break it --------------------------------------------------------------------------------


def test_a_wave_that_finds_no_site_left_does_not_count_a_refusal_twice() -> None:
    """One of three may refuse. It used to take the version back when the next wave had no site of its own."""
    waves = (Wave(name="three", count=3), Wave(name="half", percent=50), Wave(name="all", bake=1e9))
    world = town(6, strategy=Strategy(waves=waves))
    world.operator()
    first = next(name for name, site in world.sites.items() if site.told == "v1")
    world.sites[first].refuses.add("v1")
    decision = world.settle(steps=6)
    assert decision.progress.phase is Phase.BAKING and decision.progress.wave == 2


@pytest.mark.parametrize("baking", [False, True])
def test_a_wave_all_of_whose_sites_are_gone_takes_others(baking: bool) -> None:
    """Their job left them, was pinned, or the sites were taken out of the cluster: it used to wait for them for ever."""
    waves = (Wave(name="canary", count=1, bake=60), Wave(name="all"))
    world = town(4, strategy=Strategy(waves=waves))
    world.operator()
    if baking:
        watched(world)
    (gone,) = world.progress.members if world.progress else ()
    del world.sites[gone]
    decision = world.operator()
    assert decision.progress.phase is Phase.ROLLING and len(decision.progress.members) == 1
    assert gone not in decision.progress.members and told(world) == 1
    assert world.settle().progress.phase is Phase.DONE


def test_waves_that_are_taken_out_in_the_middle_of_a_bake_do_not_end_it() -> None:
    """It used to tell every site at once, past the gates."""
    world = town(
        8, strategy=Strategy(waves=(Wave(name="a", count=1), Wave(name="b", count=1, bake=60), Wave(name="c")))
    )
    for _ in range(4):
        world.operator()
        for site in world.sites.values():
            site.change()
    assert world.operator().progress.phase is Phase.BAKING and told(world) == 2
    world.strategy = replace(world.strategy, waves=(Wave(name="only", count=1, bake=60),))
    decision = world.operator()
    assert decision.progress.phase is Phase.BAKING and told(world) == 2
    assert world.settle().progress.phase is Phase.DONE


def test_waves_that_are_added_once_it_is_out_keep_nobody_from_it() -> None:
    """A site that came back was told nothing, since no wave that it was in would ever come."""
    world = town(4, strategy=Strategy(waves=(Wave(name="all"),)))
    world.sites["s02"].connected = False
    assert world.settle().progress.phase is Phase.DONE
    world.strategy = replace(world.strategy, waves=(Wave(name="canary", count=1), Wave(name="all"), Wave(name="more")))
    world.sites["s02"].connected = True
    world.operator()
    assert world.sites["s02"].told == "v1"


def test_abort_takes_back_no_version_that_there_is_nothing_else_for() -> None:
    """A revert in the middle of a rollout wants the version that finished: abort made that the refused one."""
    world = gated()
    world.settle(steps=2, passing=False)
    world.target = "v0"
    world.command = Command(verb="abort", token="1")
    decision = world.operator()
    assert decision.refused == () and decision.progress.phase is not Phase.ROLLED_BACK
    assert world.settle().progress.phase is Phase.DONE and world.serving() == {"v0": 6}


def test_a_revert_in_the_middle_has_nothing_to_be_compared_with() -> None:
    """It waited for ever for figures of a version before, while the sites stayed on what was being reverted."""
    waves = (Wave(name="canary", count=2, bake=60), Wave(name="all"))
    world = watched(gated(waves=waves, gates=(replace(ERRORS, baseline=True),)))
    world.target = "v0"
    for _ in range(20):
        world.now += 10
        world.verdicts = {("errors", ""): Sample(at=world.now, value=1.0, samples=1000)}
        for site in world.sites.values():
            site.change()
        decision = world.operator()
    assert decision.progress.phase is Phase.DONE and world.serving() == {"v0": 6}


def test_promote_goes_on_although_the_deadline_has_passed() -> None:
    """It was held again in the same step."""
    waves = (Wave(name="canary", count=1), Wave(name="all"))
    world = town(4, strategy=Strategy(waves=waves, deadline=100.0, automatic_rollback=False))
    world.operator()
    world.now += 200
    assert world.operator().progress.hold is Hold.GATE_FAILED
    world.command = Command(verb="promote", token="1")
    assert world.operator().progress.hold is Hold.NONE
    assert world.settle(steps=5).progress.phase is Phase.DONE


def test_promote_goes_on_although_too_many_refuse_it() -> None:
    waves = (Wave(name="some", count=3), Wave(name="all"))
    world = town(6, strategy=Strategy(waves=waves, max_unavailable=1, automatic_rollback=False))
    for _ in range(3):
        world.operator()
        for name, site in world.sites.items():
            if told(world) > 1 and site.serves == "v0" and site.told == "v1":
                world.sites[name].refuses.add("v1")
            site.change()
    for _ in range(4):
        world.operator()
        for site in world.sites.values():
            site.change()
    assert world.progress is not None and world.progress.hold is Hold.GATE_FAILED, world.progress
    world.command = Command(verb="promote", token="1")
    decision = world.operator()
    assert decision.progress.wave == 1 and decision.progress.hold is Hold.NONE


def test_a_variant_that_comes_with_a_later_wave_is_compared_with_what_was_measured_before() -> None:
    world = watched(gated(gates=(replace(ERRORS, baseline=True, count=1),)))
    for _ in range(7):
        world.now += 10
        world.look(1.0)
        world.operator()
    assert world.progress is not None and world.progress.wave == 1
    for site in world.sites.values():
        site.change()
    for variants in (("",), ("sha256:arm",), ("sha256:arm",)):
        decision = advance(replace(world.facts(), variants=variants))
        world.progress = decision.progress
    assert [(one.variant, one.baseline) for one in world.progress.looks] == [("sha256:arm", 1.0)]


def test_what_was_gone_back_from_is_not_tried_again_where_nothing_answers_for_the_moment() -> None:
    """A hub that has forgotten took the version for the first of all and told it everywhere: nobody served the one before."""
    world = town(3, strategy=Strategy(waves=WAVES), stable=None)
    world.refused = (Refused(version="v1", reason="gate errors", at=0.0),)
    for site in world.sites.values():
        site.serves = None
    decision = world.operator()
    assert decision.progress.phase is Phase.ROLLED_BACK and told(world) == 0 and told(world, "v0") == 3


def test_a_deadline_holds_also_when_the_clock_was_wrong_as_it_began() -> None:
    world = gated(deadline=100.0)
    world.now = 1e6
    world.operator()
    world.now = 1000.0
    world.operator()
    world.now += 101
    assert world.operator().progress.phase is Phase.ROLLED_BACK
