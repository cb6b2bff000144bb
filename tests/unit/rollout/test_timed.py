"""A release whose sites may switch at certain times only: what they are told, what is waited for, what is late."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from edgeward.api.modelrelease import Rollout, Window
from edgeward.fleet import windows
from edgeward.fleet.model import ServedModel, parameters_hash
from edgeward.rollout.site_step import SiteState
from edgeward.rollout.step import ReleaseStep
from tests.unit.rollout.test_waved import V1, V2, Town

EVENING = datetime(2026, 6, 10, 20, tzinfo=UTC).timestamp()
NIGHTLY = Window(start="02:00", duration="3h")
NIGHT = EVENING + 6 * 3600


class TimedTown(Town):
    """Sites fetch what they are told at once, and switch when `switch` is called."""

    def __init__(self, rollout: dict[str, Any], **release: Any) -> None:
        super().__init__(rollout=Rollout.model_validate(rollout), **release)
        self.now = EVENING

    def stage(self, *names: str) -> None:
        for name in names or tuple(self.models):
            one = self.models[name]
            if one.told is not None and one.told != V1:
                served = (ServedModel(V1.digest, "1", serving=True), ServedModel(one.told.digest, "2", staged=True))
                self.models[name] = replace(one, served=served)

    switch = Town.change


def reasons(said: ReleaseStep) -> set[tuple[str, str, str]]:
    return {(one.state, one.reason, one.message) for one in said.sites}


def test_windows_alone_are_a_way_to_go_out_everywhere():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}]})
    assert {one.activation.windows for one in town.step().sites} == {(NIGHTLY,)}
    town.stage()
    said = town.step()
    assert said.remembered.waits_for == "the window of 6 sites, next opens at 2026-06-11T02:00:00Z"
    opens = "fetched and verified, its window opens at 2026-06-11T02:00:00Z"
    assert reasons(said) == {(SiteState.PENDING, "WaitingForWindow", opens)}
    town.now = NIGHT
    town.switch()
    said = town.step()
    assert said.remembered.phase == "Done" and {one.state for one in said.sites} == {SiteState.UPDATED}


def test_the_windows_of_a_site_hold_without_spec_rollout():
    town = TimedTown({})
    town.release = replace(town.release, rollout=None)
    town.sites = [replace(town.sites[0], windows=(NIGHTLY,), time_zone="Asia/Kolkata"), *town.sites[1:]]
    first, *others = town.step().sites
    assert (first.activation.windows, first.activation.time_zone) == ((NIGHTLY,), "Asia/Kolkata")
    assert {one.activation for one in others} == {None}


def test_each_site_waits_for_its_own_night():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}]})
    town.sites = [replace(site, time_zone="Asia/Kolkata" if site.name < "d" else "") for site in town.sites]
    town.step()
    town.stage()
    # 02:00 in Kolkata is 20:30 UTC of the day before.
    assert town.step().remembered.waits_for == "the window of 6 sites, next opens at 2026-06-10T20:30:00Z"


def test_what_is_fetched_makes_room_for_the_next_download_and_not_for_the_next_change():
    night = {"windows": [{"start": "02:00", "duration": "3h"}], "pace": {"concurrentDownloads": 2}}
    town = TimedTown(night)
    for count in (2, 4, 6):
        town.step()
        assert sum(told == "2" for told in town.told().values()) == count
        town.stage()
    town = TimedTown({**night, "waves": [{"name": "all", "maxConcurrent": 3}]})
    for count in (2, 3, 3):
        town.step()
        assert sum(told == "2" for told in town.told().values()) == count
        town.stage()


def test_the_time_until_the_window_is_not_the_deadlines():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}], "deadline": "1h"})
    town.step()
    town.stage()
    town.now = NIGHT - 1
    assert town.step().remembered.phase == "Rolling"
    town.now = NIGHT + 3599
    assert town.step().remembered.phase == "Rolling"
    town.now = NIGHT + 3601
    assert town.step().remembered.phase == "RolledBack"


def test_a_site_that_does_not_even_fetch_it_is_late_all_the_same():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}], "deadline": "1h"})
    town.step()
    town.stage("a", "b", "c", "d", "e")
    town.now += 3601
    assert town.step().remembered.waits_for.startswith("the window of") is False
    for name in "abcde":
        town.models[name] = replace(town.models[name], served=(ServedModel(V2.digest, "2", serving=True),))
    assert town.step().remembered.phase == "RolledBack"


def test_the_way_back_waits_for_nothing():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}]})
    town.step()
    town.stage()
    said = town.step(command="abort@1")
    assert all((one.told, one.activation) == (V1, None) for one in said.sites)


def test_a_pause_holds_what_waits_at_the_sites():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}]})
    town.step()
    town.stage()
    town.release = replace(town.release, paused=True)
    assert {one.activation.windows for one in town.step().sites} == {(windows.NEVER,)}
    town.release = replace(town.release, paused=False)
    assert {one.activation.windows for one in town.step().sites} == {(NIGHTLY,)}
    assert {one.activation.windows for one in town.step(command="pause@1").sites} == {(windows.NEVER,)}


def test_a_site_that_serves_it_hears_nothing_of_a_pause():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}]})
    town.step()
    town.switch()
    town.release = replace(town.release, paused=True)
    assert {one.activation.windows for one in town.step().sites} == {(NIGHTLY,)}


def test_a_canary_waits_for_its_window_and_a_site_that_waits_for_its_wave_for_none():
    waves = [{"name": "canary", "sites": {"count": 1}, "traffic": "10%"}, {"name": "all"}]
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}], "waves": waves})
    said = town.step()
    (canary,) = [one for one in said.sites if one.beside is not None]
    assert canary.activation.windows == (NIGHTLY,)
    assert {one.activation for one in said.sites if one is not canary} == {None}


def test_a_time_zone_that_nobody_knows_is_said_where_it_holds_things_up():
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}]})
    town.sites = [replace(site, time_zone="Mars/Olympus") for site in town.sites]
    town.step()
    town.stage()
    said = town.step()
    assert said.remembered.waits_for == "the window of 6 sites, none ever opens"
    ((_, reason, message),) = reasons(said)
    assert reason == "WaitingForWindow"
    assert "cannot open: Site spec.timeZone: 'Mars/Olympus' is no time zone" in message


NEW = replace(V1, parameters={"capture": {"lowConfidence": 0.5}})


def served(parameters: str | None) -> tuple[ServedModel, ...]:
    return (ServedModel(V1.digest, "1", serving=True, parameters=parameters),)


def test_a_site_with_the_old_parameters_does_not_serve_the_new_ones():
    town = TimedTown({"waves": [{"name": "all"}]}, target=NEW)
    town.models = {name: replace(one, served=served("")) for name, one in town.models.items()}
    town.step()
    assert all(one.told == NEW for one in town.models.values())
    said = town.step()
    assert {one.state for one in said.sites} == {SiteState.PENDING} and said.remembered.phase == "Rolling"
    town.models = {
        name: replace(one, served=served(parameters_hash(NEW.parameters))) for name, one in town.models.items()
    }
    said = town.step()
    assert {one.state for one in said.sites} == {SiteState.UPDATED} and said.remembered.phase == "Done"
    assert said.history[0].parameters == NEW.parameters


def test_parameters_go_back_like_a_version():
    town = TimedTown({"waves": [{"name": "canary", "sites": {"count": 1}}, {"name": "all"}]}, target=NEW)
    town.models = {name: replace(one, served=served("")) for name, one in town.models.items()}
    town.step()
    (canary,) = [name for name, one in town.models.items() if one.told == NEW]
    bad = ServedModel(
        V1.digest,
        "1",
        parameters=parameters_hash(NEW.parameters),
        refused_step="Load",
        refused_reason="ParametersInvalid",
    )
    town.models[canary] = replace(town.models[canary], served=(*served(""), bad))
    said = town.step()
    assert said.remembered.phase == "RolledBack" and all(one.told == V1 for one in said.sites)
    assert [one.identity for one in said.refused] == [NEW.identity]


@pytest.mark.parametrize("parameters", [None, ""])
def test_a_runtime_that_does_not_say_its_parameters_is_believed_to_have_them(parameters):
    old = ServedModel(V1.digest, parameters=parameters)
    assert old.of(V1) and old.of(NEW) == (parameters is None)


def test_a_canary_that_waits_for_its_window_to_have_all_requests_does_not_serve_yet():
    waves = [{"name": "canary", "sites": {"count": 1}, "traffic": "10%"}, {"name": "all"}]
    town = TimedTown({"windows": [{"start": "02:00", "duration": "3h"}], "waves": waves})
    town.now = NIGHT
    (canary,) = [one.site for one in town.step().sites if one.beside is not None]
    town.switch()
    both = {name: one.served for name, one in town.models.items()}
    said = town.step()
    assert said.remembered.wave == 1
    town.now = NIGHT + 4 * 3600
    for name, one in town.models.items():
        if name != canary:
            town.models[name] = replace(one, served=(ServedModel(V2.digest, "2", serving=True),))
    town.step()
    said = town.step()
    assert said.remembered.waits_for == "the window of 1 site, next opens at 2026-06-12T02:00:00Z"
    (state,) = [(one.state, one.reason) for one in said.sites if one.site == canary]
    assert state == (SiteState.PENDING, "WaitingForWindow")
    assert town.models[canary].served == both[canary]
    town.now += 20 * 3600
    town.switch()
    assert town.step().remembered.phase == "Done"
