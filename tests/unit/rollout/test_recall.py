"""A hub that has lost what it knew of a release, or only believes to know it, against what the sites remember."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeward.api.assignment import RefusedHere
from edgeward.fleet.model import ModelVersion, ServedModel
from edgeward.rollout.site_step import SiteState

from .test_waved import V1, V2, Town

V3 = ModelVersion("m", "3", f"sha256:{3:064x}", ("https://m/3",))
AT = "2026-02-03T04:05:06Z"


def remembers(version: ModelVersion = V2, **more: Any) -> RefusedHere:
    about = {"identity": version.identity, "digest": version.digest, "version": version.version}
    return RefusedHere.model_validate({**about, "scope": "Release", "reason": "gate errors: 0.3", "at": AT, **more})


class Reminded(Town):
    """Sites that keep a memory, by what they are told as the agent does."""

    def __init__(self, *memory: RefusedHere, **release: Any) -> None:
        super().__init__(**release)
        for name in self.models:
            self.remember(name, *memory)

    def remember(self, name: str, *memory: RefusedHere) -> None:
        self.models[name] = replace(self.models[name], avoids=memory)

    def lose(self, *, plain: bool = False) -> None:
        """The ModelRelease is deleted and made again from Git."""
        rollout = None if plain else self.release.rollout
        self.release = replace(
            self.release, remembered=None, refused=(), history=(), current=None, rollout=rollout, gates=()
        )

    def forget_earlier(self) -> None:
        """What agents do that hear of a later attempt."""
        for name, one in self.models.items():
            attempts = {told.identity: told.attempt for told in (one.told, one.beside) if told is not None}
            kept = tuple(entry for entry in one.avoids if attempts.get(entry.identity, 0) <= entry.attempt)
            self.models[name] = replace(one, avoids=kept)


@pytest.mark.parametrize("plain", [False, True])
def test_a_release_that_was_taken_back_and_made_again_is_not_tried_until_retry(plain: bool) -> None:
    town = Reminded(remembers())
    town.lose(plain=plain)
    for _ in range(3):
        said = town.step()
        town.change()
        assert set(town.told().values()) == {"1"}
        assert said.remembered is not None and said.remembered.phase == "RolledBack"
        assert said.remembered.why == "gate errors: 0.3"
        assert [(one.identity, one.attempt) for one in said.refused] == [(V2.identity, 0)]
        assert said.current == V1 and said.first == V1
    said = town.step(command="retry@t")
    assert said.remembered is not None and (said.remembered.attempt, said.remembered.token) == (1, "t")
    for _ in range(40):
        town.now += 30
        town.change()
        town.forget_earlier()
        said = town.step(command="retry@t")
    assert set(town.told().values()) == {"2"} and said.refused == ()
    assert said.current == V2 and {one.told.attempt for one in town.models.values() if one.told} == {1}
    assert all(one.avoids == () for one in town.models.values())


def test_one_site_that_remembers_is_enough_and_a_late_one_counts_as_well() -> None:
    town = Reminded()
    town.lose()
    town.step()
    town.remember("d", remembers())
    for _ in range(2):
        said = town.step()
        assert said.remembered is not None and said.remembered.phase == "RolledBack"
        assert set(town.told().values()) == {"1"}


def test_another_version_goes_out_and_the_refused_one_stays_refused() -> None:
    town = Reminded(remembers(), target=V3)
    town.lose()
    said = town.step()
    assert said.remembered is not None and said.remembered.phase != "RolledBack"
    assert [one.version for one in said.refused] == ["2"], "kept for when it is wanted again"


def test_what_finished_since_is_not_taken_back_by_an_old_memory() -> None:
    town = Reminded()
    for _ in range(40):
        town.now += 30
        town.step()
        town.change()
    finished = town.step()
    assert [one.version for one in finished.history] == ["2", "1"]
    # A site that was away then had been told, long before, that the version was taken back.
    town.remember("c", remembers(at="1970-01-01T00:00:01Z"))
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "Done" and said.refused == ()


def test_the_memory_of_an_earlier_attempt_does_not_stop_a_retry_that_is_under_way() -> None:
    town = Reminded(remembers())
    town.step()
    town.step(command="retry@t")
    for _ in range(40):
        town.now += 30
        town.change()
        said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.phase == "Done", "no site forgot by itself"
    # The hub loses its status in the middle: what sites were told says that somebody retried.
    town.lose()
    said = town.step()
    assert said.remembered is not None and (said.remembered.phase, said.remembered.attempt) == ("Done", 1)


def test_an_operator_that_dies_between_a_retry_and_its_word_to_the_sites_repeats_nothing_harmful() -> None:
    town = Reminded(remembers())
    town.lose()
    town.step()
    before = dict(town.models)
    said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.attempt == 1
    # The status was written, the Assignments were not.
    town.models = before
    said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.attempt == 1
    assert sum("2" in told for told in town.told().values()) == 1
    # The other way round: Assignments written, the status not.
    town.lose()
    for _ in range(2):
        said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.attempt == 2 and said.remembered.phase != "RolledBack"


def test_a_site_that_went_back_by_itself_is_counted_as_one_that_refuses() -> None:
    town = Reminded(gates=())
    (canary,) = [one.site for one in town.step().sites if one.beside is not None]
    town.change()
    own = remembers(scope="Site", step="Gate", reason="gate errors: 0.9")
    town.models[canary] = replace(
        town.models[canary], avoids=(own,), served=(ServedModel(V1.digest, "1", serving=True),)
    )
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "RolledBack"
    assert "Gate: gate errors: 0.9" in said.remembered.why
    # Retry: what the site says of the attempt before is no word about this one.
    said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.phase == "Rolling" and said.remembered.attempt == 1
    town.models[canary] = replace(town.models[canary], avoids=(own,))
    said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.phase == "Rolling"
    town.remember(canary, own.model_copy(update={"attempt": 1}))
    said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.phase == "RolledBack"


def test_of_a_release_without_waves_a_site_that_went_back_is_failed_and_no_other() -> None:
    town = Reminded(rollout=None)
    town.step()
    town.change()
    own = remembers(scope="Site", step="Gate", reason="gate errors: 0.9")
    town.models["b"] = replace(town.models["b"], avoids=(own,), served=(ServedModel(V1.digest, "1", serving=True),))
    said = town.step()
    states = {one.site: (one.state, one.reason) for one in said.sites}
    assert states["b"] == (SiteState.FAILED, "GateFailed")
    assert {state for site, (state, _) in states.items() if site != "b"} == {SiteState.UPDATED}
    # Retry: everybody hears of the attempt, only the one that refused has something to do.
    said = town.step(command="retry@t")
    assert said.remembered is not None and said.remembered.attempt == 1
    town.forget_earlier()
    town.change()
    said = town.step(command="retry@t")
    assert {one.state for one in said.sites} == {SiteState.UPDATED}
    assert said.remembered is not None and (said.remembered.phase, said.remembered.attempt) == ("Done", 1)
    assert town.step(command="retry@t").remembered == said.remembered, "acted on once"


def test_a_site_that_is_back_after_several_releases_goes_straight_to_the_current_one() -> None:
    town = Reminded()
    town.sites = [replace(site, connected=site.name != "e") for site in town.sites]
    for target in (V2, V3):
        town.release = replace(town.release, target=target)
        for _ in range(40):
            town.now += 30
            town.step()
            away = town.models["e"]
            town.change()
            town.models["e"] = replace(away, served=(ServedModel(V1.digest, "1", serving=True),))
    assert town.told() | {"e": "3"} == dict.fromkeys("abcdef", "3")
    told = [town.told()["e"]]
    town.sites = [replace(site, connected=True) for site in town.sites]
    for _ in range(4):
        town.step()
        told.append(town.told()["e"])
        town.change()
    assert set(told) <= {"1", "3"} and told[-1] == "3", "never the one in between, and no wave"
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "Done"
