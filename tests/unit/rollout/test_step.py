"""Each step of a release: who is told what, and how far it is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.model import Fleet, Job, ModelVersion, Problem, Release, ServedModel, Site, SiteModels
from edgeward.rollout.site_step import SiteState
from edgeward.rollout.step import ReleaseStep, step

V1 = ModelVersion("m", "1", f"sha256:{1:064x}", ("https://m/1",))
V2 = ModelVersion("m", "2", f"sha256:{2:064x}", ("https://m/2",))
KEY = "shop/m"


def serves(version: ModelVersion, *, refused: str = "") -> ServedModel:
    return ServedModel(
        digest=version.digest,
        version=version.version,
        serving=not refused,
        refused_step=refused,
        refused_reason="DigestMismatch" if refused else "",
        refused_message="other bytes" if refused else "",
    )


def at(
    site: str, told: ModelVersion | None, *served: ServedModel, job: str = "shop/signs", replicas: int = 1
) -> SiteModels:
    return SiteModels(job=job, site=site, told=told, served=served, ready=len(served), replicas=replicas)


def fleet(*sites: SiteModels, offline: str = "", jobs: tuple[Job, ...] = (), **release: object) -> Fleet:
    known: dict[str, object] = {"target": V2, "current": V1, "sites": sites}
    names = {item.site for item in sites}
    return Fleet(
        now=0,
        sites=tuple(Site(name, "edge", connected=name != offline) for name in sorted(names)),
        jobs=jobs or (Job("shop", "signs", "u", model_name="m", model_digest=V2.digest),),
        releases=(Release("shop", "m", **{**known, **release}),),  # type: ignore[arg-type]
    )


def only(of: Fleet) -> ReleaseStep:
    (found,) = step(of).releases
    return found


def states(of: Fleet) -> dict[str, tuple[str, str]]:
    return {item.site: (item.state.value, item.reason) for item in only(of).sites}


def test_a_new_version_goes_to_every_site() -> None:
    at_work = fleet(at("a", V1, serves(V1)), at("b", V2, serves(V1)), at("c", V2, serves(V2)))
    rollout = step(at_work)
    assert [rollout.told("shop/signs", site) for site in "abc"] == [V2, V2, V2]
    assert states(at_work) == {"a": ("Pending", "RollingOut"), "b": ("Pending", "RollingOut"), "c": ("Updated", "")}
    assert only(at_work).current == V1, "not before it is finished"


def test_finished_only_when_nothing_is_pending_or_failed() -> None:
    assert only(fleet(at("a", V2, serves(V2)), at("b", V2, serves(V2)))).current == V2
    assert only(fleet(at("a", V2, serves(V2)), at("b", V2, serves(V1), serves(V2, refused="Verify")))).current == V1
    assert only(fleet()).current == V1, "nothing serves it yet"


def test_a_site_where_both_versions_serve_is_not_updated_yet() -> None:
    assert states(fleet(at("a", V2, serves(V1), serves(V2)))) == {"a": ("Pending", "RollingOut")}


def test_paused_holds_what_was_told_and_lets_what_is_done_be_done() -> None:
    held = fleet(at("a", V1, serves(V1)), at("b", V2, serves(V2)), paused=True)
    assert step(held).told("shop/signs", "a") == V1
    assert states(held) == {"a": ("Pending", "Paused"), "b": ("Updated", "")}
    assert only(held).paused


def test_a_refused_digest_is_failed_with_the_step_and_the_old_one_serves() -> None:
    refused = fleet(at("a", V2, serves(V1), serves(V2, refused="Verify")))
    (said,) = only(refused).sites
    assert (said.state, said.reason, said.message) == (SiteState.FAILED, "VerifyFailed", "DigestMismatch: other bytes")
    assert said.serves == serves(V1) and said.told == V2


def test_what_serves_but_is_no_longer_trusted_is_failed() -> None:
    """The policy came after the version: a site serves on, and does not count as what was asked for."""
    distrusted = replace(serves(V2), refused_step="Signature", refused_reason="SignatureMissing")
    of = fleet(at("a", V2, distrusted), at("b", V2, serves(V2)))
    assert states(of) == {"a": ("Failed", "SignatureFailed"), "b": ("Updated", "")}
    assert only(of).current == V1
    # What another pod there says of its own way is not about what serves.
    assert states(fleet(at("a", V2, replace(serves(V2), refused_step="Load"))))["a"] == ("Updated", "")


def test_an_offline_site_catches_up_by_itself_and_is_not_failed() -> None:
    off = fleet(at("a", V2, serves(V1), serves(V2, refused="Fetch")), at("b", V2, serves(V2)), offline="a")
    assert states(off) == {"a": ("Offline", "SiteDisconnected"), "b": ("Updated", "")}
    assert only(off).current == V2


def test_a_site_whose_nodes_are_all_gone_is_offline_too() -> None:
    """A default Site is made of its nodes: without any it is not in the Fleet, and waiting for it would never end."""
    gone = replace(fleet(at("a", V2, serves(V1)), at("b", V2, serves(V2))), sites=(Site("b", "edge"),))
    assert states(gone)["a"] == ("Offline", "SiteDisconnected")


def test_a_job_pinned_elsewhere_keeps_its_version_and_is_not_counted_as_serving_the_target() -> None:
    pinned = (Job("shop", "signs", "u", model_digest=V1.digest),)
    rollout = fleet(at("a", V1, serves(V1)), jobs=pinned)
    assert step(rollout).told("shop/signs", "a") == V1
    assert only(rollout).sites == () and only(rollout).current == V1


def test_what_nobody_wants_any_more_is_not_waited_for() -> None:
    """Sites that the job has left, and sites of a job that is gone, hold up no release."""
    left = fleet(at("a", V1, replicas=0), at("b", V2, serves(V2)), at("c", V1, serves(V1), job="shop/gone"))
    assert states(left) == {"b": ("Updated", "")}
    assert step(left).told("shop/signs", "a") == V2, "coming back, it starts with the new one"
    assert only(left).current == V2


def test_a_job_with_a_problem_is_not_told_and_is_waited_for() -> None:
    for digest in ("", V2.digest):
        jobs = (Job("shop", "signs", "u", model_digest=digest, problem=Problem("InvalidSpec", "spec.replicas: no")),)
        stuck = fleet(at("a", V1, serves(V1)), jobs=jobs)
        assert step(stuck).told("shop/signs", "a") == V1
        assert states(stuck) == {"a": ("Pending", "InvalidSpec")}
        assert only(stuck).current == V1


def test_a_release_that_is_gone_or_refused_tells_nobody_anything_new() -> None:
    gone = replace(fleet(at("a", V1, serves(V1))), releases=())
    assert step(gone).told("shop/signs", "a") is None
    refused = fleet(at("a", V1, serves(V1)), problem=Problem("FeatureNotYetAvailable", "spec.gates"))
    assert step(refused).told("shop/signs", "a") == V1
    assert only(refused).target is None and only(refused).current == V1


def test_a_site_with_two_jobs_counts_once_by_the_worse() -> None:
    jobs = tuple(Job("shop", name, name, model_digest=V2.digest) for name in ("one", "two"))
    both = fleet(at("a", V2, serves(V2), job="shop/one"), at("a", V2, serves(V1), job="shop/two"), jobs=jobs)
    assert [only(both).count(state) for state in SiteState] == [0, 1, 0, 0]


versions = st.sampled_from([V1, V2])
served = st.lists(
    st.builds(serves, versions, refused=st.sampled_from(["", "Fetch", "Load"])),
    max_size=3,
    unique_by=lambda it: it.digest,
)
models = st.builds(
    lambda site, told, what, replicas, job: at(site, told, *what, replicas=replicas, job=job),
    st.sampled_from("abc"),
    st.one_of(st.none(), versions),
    served,
    st.integers(0, 2),
    st.sampled_from(["shop/signs", "shop/pinned", "shop/gone"]),
)
JOBS = (Job("shop", "signs", "1", model_digest=V2.digest), Job("shop", "pinned", "2", model_digest=V1.digest))


@given(
    st.lists(models, max_size=6, unique_by=lambda it: (it.job, it.site)),
    st.booleans(),
    st.sampled_from(["", "a"]),
    st.one_of(st.none(), versions),
)
def test_applied_twice_changes_nothing(
    sites: list[SiteModels], paused: bool, offline: str, target: ModelVersion | None
) -> None:
    first = fleet(*sites, jobs=JOBS, paused=paused, offline=offline, target=target)
    once = step(first)
    after = tuple(replace(item, told=once.told(item.job, item.site)) for item in sites)
    again = step(fleet(*after, jobs=JOBS, paused=paused, offline=offline, target=target))
    assert [again.told(item.job, item.site) for item in sites] == [item.told for item in after]
    (found,) = again.releases
    assert sum(found.count(state) for state in SiteState) == len({item.site for item in found.sites})
    if found.current != V1:
        assert found.current == target
        assert not found.count(SiteState.PENDING) and not found.count(SiteState.FAILED)
        assert found.count(SiteState.UPDATED)
