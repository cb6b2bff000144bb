"""A release with spec.rollout, from the API's words to who is told what, pass by pass as the hub does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeward.api.modelrelease import ReleasedVersion, Rollout
from edgeward.fleet.model import Fleet, Job, ModelVersion, Release, ServedModel, Site, SiteModels
from edgeward.rollout.step import ReleaseStep, step

V1 = ModelVersion("m", "1", f"sha256:{1:064x}", ("https://m/1",))
V2 = ModelVersion("m", "2", f"sha256:{2:064x}", ("https://m/2",))
FINISHED = ReleasedVersion(version="1", digest=V1.digest, sources=V1.sources, finished="2026-01-02T03:04:05Z")
ASKED = {
    "waves": [
        {"name": "canary", "sites": {"count": 1}, "traffic": "10%", "mirror": 20, "bake": "1m"},
        {"name": "north", "sites": {"selector": {"matchLabels": {"region": "north"}}}},
        {"name": "all"},
    ],
    "maxUnavailableSites": "50%",
}


class Town:
    """Sites a to f; each serves what it was told when `change` is called."""

    def __init__(self, **release: Any) -> None:
        self.sites = [Site(name, "edge", labels={"region": "north" if name < "d" else "south"}) for name in "abcdef"]
        self.models = {
            site.name: SiteModels("shop/signs", site.name, V1, (ServedModel(V1.digest, "1", serving=True),), 1, 1)
            for site in self.sites
        }
        self.release = replace(
            Release("shop", "m", target=V2, current=V1, rollout=Rollout.model_validate(ASKED), history=(FINISHED,)),
            **release,
        )
        self.now = 1000.0

    def step(self, *, command: str = "") -> ReleaseStep:
        release = replace(self.release, sites=tuple(self.models.values()), command=command)
        target = self.release.target or V2
        jobs = (Job("shop", "signs", "u", model_name="m", model_digest=target.digest),)
        (said,) = step(Fleet(now=self.now, sites=tuple(self.sites), jobs=jobs, releases=(release,))).releases
        self.release = replace(
            self.release,
            remembered=said.remembered,
            refused=said.refused,
            history=said.history,
            current=said.current,
        )
        for one in said.sites:
            self.models[one.site] = replace(self.models[one.site], told=one.told, beside=one.beside)
        return said

    def change(self, *, refuses: str = "") -> None:
        for name, one in self.models.items():
            served = [
                ServedModel(version.digest, version.version, serving=True)
                for version in (one.told, one.beside)
                if version
            ]
            if name in refuses:
                bad = ServedModel(V2.digest, "2", refused_step="Golden", refused_reason="GoldenMismatch")
                served = [ServedModel(V1.digest, "1", serving=True), bad]
            self.models[name] = replace(one, served=tuple(served))

    def told(self) -> dict[str, str]:
        return {
            name: f"{one.told.version if one.told else '-'}{'+2' if one.beside else ''}"
            for name, one in self.models.items()
        }


def test_a_canary_the_north_then_all_each_after_the_one_before() -> None:
    town = Town()
    (canary,) = [one for one in town.step().sites if one.beside is not None]
    assert (canary.told, canary.beside, canary.traffic, canary.mirror) == (V1, V2, 10, 20)
    town.change()
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "Baking"
    town.now += 59
    assert town.step().remembered == said.remembered
    town.now += 1
    town.step()
    news = {name for name, told in town.told().items() if "2" in told}
    assert news <= {"a", "b", "c", canary.site} and town.told()[canary.site] == "2"
    for _ in range(6):
        town.change()
        said = town.step()
    assert said.remembered is not None and said.remembered.phase == "Done"
    assert set(town.told().values()) == {"2"}
    assert said.current == V2 and [one.version for one in said.history] == ["2", "1"]


def test_a_wave_that_refuses_takes_all_back_and_the_spec_is_not_tried_again() -> None:
    town = Town()
    (canary,) = [one.site for one in town.step().sites if one.beside is not None]
    town.change(refuses=canary)
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "RolledBack"
    assert "GoldenMismatch" in said.remembered.why
    assert [one.version for one in said.refused] == ["2"] and said.current == V1
    for _ in range(4):
        town.change()
        town.step()
    assert set(town.told().values()) == {"1"}
    town.step(command="retry@1")
    assert any("2" in told for told in town.told().values())


def test_bytes_that_cannot_be_had_are_no_verdict_on_the_version() -> None:
    town = Town()
    (canary,) = [one.site for one in town.step().sites if one.beside is not None]
    unreachable = ServedModel(V2.digest, "2", refused_step="Fetch", refused_reason="Unreachable")
    town.models[canary] = replace(town.models[canary], served=(ServedModel(V1.digest, "1", serving=True), unreachable))
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "Rolling"
    assert {one.site: one.reason for one in said.sites}[canary] == "FetchFailed"


def test_a_site_that_is_new_in_the_middle_begins_with_what_finished() -> None:
    town = Town()
    assert town.step().first == V1
    town.release = replace(town.release, rollout=None)
    assert town.step().first == V2


def test_the_first_version_of_all_goes_everywhere() -> None:
    town = Town(current=None, history=())
    for name, one in town.models.items():
        town.models[name] = replace(one, told=None, served=())
    town.step()
    assert set(town.told().values()) == {"2"}


def test_a_job_that_is_pinned_elsewhere_takes_no_part() -> None:
    town = Town()
    release = replace(town.release, sites=tuple(town.models.values()))
    pinned = (Job("shop", "signs", "u", model_name="m", model_digest=V1.digest),)
    (said,) = step(Fleet(now=1.0, sites=tuple(town.sites), jobs=pinned, releases=(release,))).releases
    assert said.sites == ()


def test_parameters_make_another_version() -> None:
    """Settings go out in waves like bytes do."""
    changed = replace(V1, parameters={"threshold": 0.7})
    town = Town(target=changed)
    jobs = (Job("shop", "signs", "u", model_name="m", model_digest=V1.digest),)
    release = replace(town.release, sites=tuple(town.models.values()))
    (said,) = step(Fleet(now=1.0, sites=tuple(town.sites), jobs=jobs, releases=(release,))).releases
    assert all(one.beside is None for one in said.sites), "two of the same version could not be told apart"
    assert sum(one.told == changed for one in said.sites) == 1


def test_a_job_that_is_stopped_at_a_site_holds_up_nobody() -> None:
    """Its Assignment may stay for a while, with no replica that could ever serve: the wave waited for it for ever."""
    town = Town(rollout=Rollout.model_validate({"waves": [{"name": "all"}]}))
    town.models["c"] = replace(town.models["c"], ready=0, replicas=0, served=())
    for _ in range(4):
        town.step()
        for name, one in town.models.items():
            if one.replicas and one.told is not None:
                town.models[name] = replace(one, served=(ServedModel(one.told.digest, one.told.version, serving=True),))
    said = town.step()
    assert said.remembered is not None and said.remembered.phase == "Done"


def test_a_site_of_two_jobs_of_which_one_is_stopped_counts_by_the_other() -> None:
    town = Town()
    stopped = replace(town.models["a"], job="shop/other", ready=0, replicas=0, served=())
    jobs = tuple(Job("shop", name, name, model_name="m", model_digest=V2.digest) for name in ("signs", "other"))
    told = replace(town.models["a"], told=V2, served=(ServedModel(V2.digest, "2", serving=True),))
    release = replace(town.release, rollout=Rollout(), sites=(told, stopped))
    said = step(Fleet(now=1.0, sites=tuple(town.sites), jobs=jobs, releases=(release,)))
    assert said.releases[0].remembered is not None and said.releases[0].remembered.phase == "Done"
    other = said.site("shop/other", "a")
    assert other is not None and other.told == V2, "what it begins with once it is started again"


def test_what_a_stopped_job_was_told_goes_back_with_the_others() -> None:
    town = Town()
    town.step()
    (canary,) = [name for name, told in town.told().items() if "2" in told]
    town.change(refuses=canary)
    town.models["f"] = replace(town.models["f"], told=V2, ready=0, replicas=0, served=())
    release = replace(town.release, sites=tuple(town.models.values()))
    jobs = (Job("shop", "signs", "u", model_name="m", model_digest=V2.digest),)
    said = step(Fleet(now=town.now, sites=tuple(town.sites), jobs=jobs, releases=(release,)))
    assert said.releases[0].refused and said.told("shop/signs", "f") == V1


def test_a_site_is_staged_where_one_job_waits_and_the_other_serves() -> None:
    town = Town(rollout=Rollout.model_validate({"deadline": "10s", "activationTime": "2027-01-01T00:00:00Z"}))
    jobs = tuple(Job("shop", name, name, model_name="m", model_digest=V2.digest) for name in ("signs", "other"))
    done = replace(town.models["a"], told=V2, served=(ServedModel(V2.digest, "2", serving=True),))
    old, new = ServedModel(V1.digest, "1", serving=True), ServedModel(V2.digest, "2", staged=True)
    waits = replace(done, job="shop/other", served=(old, new))
    for now in (1000.0, 2000.0):
        release = replace(town.release, sites=(done, waits))
        (said,) = step(Fleet(now=now, sites=tuple(town.sites), jobs=jobs, releases=(release,))).releases
        town.release = replace(town.release, remembered=said.remembered)
    assert said.remembered is not None and said.remembered.phase == "Rolling", "it waits for its moment alone"


def test_a_second_job_that_comes_to_a_site_does_not_take_the_first_one_back() -> None:
    """The site's wave had passed. It was told the version before again, for both, until the last wave."""
    town = Town()
    (canary,) = [one.site for one in town.step().sites if one.beside is not None]
    town.change()
    town.step()
    town.now += 60
    town.step()
    assert town.told()[canary] == "2" and "1" in town.told().values()
    jobs = tuple(Job("shop", name, name, model_name="m", model_digest=V2.digest) for name in ("signs", "other"))
    second = replace(
        town.models[canary], job="shop/other", told=V1, served=(ServedModel(V1.digest, "1", serving=True),)
    )
    release = replace(town.release, sites=(*town.models.values(), second))
    said = step(Fleet(now=town.now, sites=tuple(town.sites), jobs=jobs, releases=(release,)))
    assert said.told("shop/signs", canary) == said.told("shop/other", canary) == V2
