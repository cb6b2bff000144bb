"""Pinned jobs take no part in rollouts."""

from __future__ import annotations

from edgeward.api.assignment import Activation
from edgeward.api.modelrelease import Rollout, Wave
from edgeward.fleet.model import Fleet, Job, ModelVersion, Release, Site, SiteModels
from edgeward.rollout.step import step
from tests.unit.rollout.test_step import V1, V2, serves

V0 = ModelVersion("m", "0", f"sha256:{9:064x}", ("https://m/0",))
WAVES = Rollout(waves=(Wave(name="first", bake="1h"), Wave(name="all")))
FREE = Job("shop", "free", "u", model_name="m", model_digest=V2.digest)


def at(site: str, job: str, told: ModelVersion) -> SiteModels:
    return SiteModels(job=f"shop/{job}", site=site, told=told, served=(serves(told),), ready=1, replicas=1)


def town(*sites: SiteModels, pin: ModelVersion | None, **release: object) -> Fleet:
    pinned = Job("shop", "pinned", "p", model_name="m", model_digest=pin.digest if pin else "", pin=pin, pinned=True)
    known: dict[str, object] = {"target": V2, "current": V1, "sites": sites, "rollout": WAVES}
    return Fleet(
        now=0,
        sites=tuple(Site(name, "edge") for name in sorted({one.site for one in sites})),
        jobs=(FREE, pinned),
        releases=(Release("shop", "m", **{**known, **release}),),  # type: ignore[arg-type]
    )


def test_they_are_told_what_they_name_at_once_and_are_not_counted() -> None:
    both = (at("a", "free", V1), at("b", "pinned", V1))
    for pin in (V0, V2):
        for more in ({}, {"paused": True}, {"rollout": None}):
            found = step(town(*both, pin=pin, **more))
            assert found.told("shop/pinned", "b") == pin
            (release,) = found.releases
            assert [one.job for one in release.sites] == ["shop/free"]
            assert release.decision is None or set(release.decision.told) == {"a"}


def test_no_window_of_the_release_holds_them() -> None:
    late = Rollout(waves=WAVES.waves, activation_time="2026-01-01T00:00:00Z")
    found = step(town(at("a", "free", V1), at("b", "pinned", V1), pin=V2, rollout=late))
    assert [
        one.activation for site, job in (("a", "free"), ("b", "pinned")) if (one := found.site(f"shop/{job}", site))
    ] == [
        Activation(not_before="2026-01-01T00:00:00Z"),
        None,
    ]


def test_what_nobody_knows_leaves_them_what_they_have() -> None:
    assert step(town(at("b", "pinned", V1), pin=None)).told("shop/pinned", "b") == V1
