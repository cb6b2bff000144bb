"""Which artifact of a version a site takes, and back from the artifact to the version."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.api.modelrelease import Artifact, ReleasedVersion, Signature, Variant, VariantMatch, WaveSites
from edgeward.api.modelrelease import Rollout as AskedRollout
from edgeward.api.modelrelease import Wave as AskedWave
from edgeward.fleet.model import Fleet, Job, ModelVersion, Node, Release, Resources, ServedModel, Site, SiteModels
from edgeward.fleet.names import pool_name
from edgeward.rollout.site_step import SiteState
from edgeward.rollout.step import step
from edgeward.rollout.variants import Ground, Grounds, described, digests, lifted, lowered, taken

GIB = 2**30
ARM = Ground(tier="edge", nodes=(("arm64", 2 * GIB),))
AMD = Ground(tier="edge", nodes=(("amd64", 8 * GIB),))
MIXED = Ground(tier="edge", nodes=(("arm64", 2 * GIB), ("amd64", 8 * GIB)))


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def variant(number: int, **match: str) -> Variant:
    return Variant(
        match=VariantMatch.model_validate(match),
        artifact=Artifact(uri=f"oci://r/m{number}", digest=digest(number), mirrors=(f"oci://mirror/m{number}",)),
    )


def version(name: str, number: int, *variants: Variant, **more: object) -> ModelVersion:
    return ModelVersion("m", name, digest(number), (f"oci://r/m{number}",), variants=variants, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("match", "ground", "fits"),
    [
        ({}, MIXED, True),
        ({"tier": "edge"}, MIXED, True),
        ({"tier": "fog"}, MIXED, False),
        ({"arch": "arm64"}, ARM, True),
        ({"arch": "arm64"}, MIXED, False),
        ({"arch": "arm64", "tier": "cloud"}, ARM, False),
        ({"maxMemory": "2Gi"}, ARM, True),
        ({"maxMemory": "2047Mi"}, ARM, False),
        ({"maxMemory": "4Gi"}, MIXED, False),
        ({"maxMemory": "8Gi"}, MIXED, True),
        ({"arch": "arm64"}, Ground(tier="edge"), False),
        ({"tier": "edge"}, Ground(tier="edge"), True),
        ({"maxMemory": "8Gi"}, Ground(tier="edge", nodes=(("arm64", None),)), False),
    ],
)
def test_a_match_needs_all_of_its_fields_at_all_of_the_nodes(match: dict[str, str], ground: Ground, fits: bool) -> None:
    asked = variant(2, **match)
    assert taken(version("1", 1, asked), ground) == (asked if fits else None)


def test_the_first_match_wins() -> None:
    first, second = variant(2, tier="edge"), variant(3, arch="arm64")
    assert taken(version("1", 1, first, second), ARM) == first
    assert taken(version("1", 1, second, first), ARM) == second


def test_a_site_whose_nodes_are_all_gone_keeps_what_it_has() -> None:
    both, gone = version("1", 1, variant(2, arch="arm64"), variant(3, tier="edge")), Ground(tier="edge")
    assert lowered(both, gone, has=frozenset({digest(2)})).digest == digest(2)
    assert lowered(both, gone, has=frozenset({digest(1)})).digest == digest(1)
    assert lowered(both, gone).digest == digest(3), "by the tier, which does not go with the nodes"


def test_a_variant_is_told_with_all_that_is_its_own_and_signed_as_the_main_one_must_be() -> None:
    require = Signature(policy="Require", keys=("k",))
    told = lowered(version("1", 1, variant(2, arch="arm64"), signature=require, pull_secret="login"), ARM)
    assert (told.digest, told.sources) == (digest(2), ("oci://r/m2", "oci://mirror/m2"))
    assert (told.signature, told.pull_secret, told.version) == (require, "login", "1")
    own = variant(2, arch="arm64")
    off = own.model_copy(
        update={"artifact": own.artifact.model_copy(update={"signature": Signature(), "pull_secret": "other"})}
    )
    told = lowered(version("1", 1, off, signature=require), ARM)
    assert (told.signature, told.pull_secret) == (Signature(), "other")


def test_another_list_of_variants_is_another_version_and_another_address_is_not() -> None:
    plain, with_one = version("1", 1), version("1", 1, variant(2, arch="arm64"))
    moved = Variant(match=VariantMatch(arch="arm64"), artifact=Artifact(uri="oci://elsewhere/m2", digest=digest(2)))
    assert plain.identity == digest(1)
    assert len({plain.identity, with_one.identity, version("1", 1, variant(3, arch="arm64")).identity}) == 3
    assert version("1", 1, variant(2, arch="amd64")).identity != with_one.identity
    assert replace(with_one, parameters={"t": 1}).identity != with_one.identity
    assert version("1", 1, moved).identity == with_one.identity


def test_versions_that_share_an_artifact_are_told_apart_by_what_the_site_would_take() -> None:
    before = version("1.4", 1, variant(2, arch="arm64"))
    after = version("1.5", 5, variant(2, arch="arm64"))
    assert lifted(lowered(before, ARM), (after, before), ARM) == before, "by its name"
    # The same version with one variant more: only the sites that take it were told another artifact.
    more = version("1.4", 1, variant(2, arch="arm64"), variant(3, arch="amd64"))
    assert lifted(lowered(before, AMD), (more, before), AMD) == before
    assert lifted(lowered(before, ARM), (more, before), ARM) == more
    stranger = version("9", 9)
    assert lifted(stranger, (after, before), AMD) == stranger
    assert lifted(replace(lowered(before, ARM), parameters={"t": 2}), (before,), ARM).identity != before.identity


MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "tier": st.sampled_from(["edge", "fog"]),
        "arch": st.sampled_from(["arm64", "amd64"]),
        "maxMemory": st.sampled_from(["1Gi", "2Gi", "4Gi"]),
    },
)
GROUNDS = st.builds(
    Ground,
    tier=st.sampled_from(["edge", "fog", "cloud"]),
    nodes=st.lists(
        st.tuples(st.sampled_from(["arm64", "amd64"]), st.sampled_from([GIB, 2 * GIB, 4 * GIB])), max_size=3
    ).map(tuple),
)


@given(st.lists(MATCHES, max_size=4), GROUNDS)
def test_there_and_back(matches: list[dict[str, str]], ground: Ground) -> None:
    whole = version("1", 1, *(variant(index + 2, **match) for index, match in enumerate(matches)))
    told = lowered(whole, ground)
    assert told.digest in digests(whole)
    assert not told.variants
    assert lifted(told, (whole,), ground) == whole
    assert lowered(whole, ground, has=frozenset({told.digest})) == told
    # One more node never makes a site take a variant by its architecture or memory that it did not take before.
    wider = replace(ground, nodes=(*ground.nodes, ("riscv64", 2**60)))
    chosen = taken(whole, wider) if ground.nodes else None
    assert chosen is None or (chosen.match.arch is None and chosen.match.max_memory is None)


def test_words() -> None:
    both = version("1", 1, variant(2, tier="edge", arch="arm64"), variant(3))
    assert [described(both, digest(number)) for number in (1, 2, 3)] == ["", "tier=edge,arch=arm64", "any"]


def test_a_pool_is_what_makes_a_node_its_own() -> None:
    site = Site("x", "cloud", elastic=True, node_labels={"kubernetes.io/arch": "arm64"})
    grounds = Grounds(Fleet(now=0, sites=(site,)))
    assert grounds.at("x", [pool_name("x"), "gone"]).nodes == (("arm64", None),)


# A release of which some sites take a variant, step by step ----------------------------------------------------------

OLD = version("1", 1, variant(11, arch="arm64"))
NEW = version("2", 2, variant(12, arch="arm64"))
WAVES = AskedRollout(waves=(AskedWave(name="first", sites=WaveSites(names=("arm",))), AskedWave(name="all")))


def town(*models: SiteModels, **release: object) -> Fleet:
    known: dict[str, object] = {"target": NEW, "sites": models}
    return Fleet(
        now=100,
        sites=(Site("arm", "edge"), Site("amd", "edge"), Site("x", "edge")),
        nodes=(
            Node(name="arm", site="arm", tier="edge", arch="arm64", allocatable=Resources(memory=2 * GIB)),
            Node(name="amd", site="amd", tier="edge", arch="amd64", allocatable=Resources(memory=8 * GIB)),
        ),
        jobs=(Job("s", "j", "u", model_name="m", model_digest=NEW.digest),),
        releases=(Release("s", "m", **{**known, **release}),),  # type: ignore[arg-type]
    )


def site(name: str, told: int, serves: int, *, said: str = "", refused: int = 0) -> SiteModels:
    label = said or ("2" if told in (2, 12) else "1")
    served = [ServedModel(digest=digest(serves), serving=True)]
    if refused:
        served.append(ServedModel(digest=digest(refused), refused_step="Golden", refused_reason="Off"))
    return SiteModels("s/j", name, version(label, told), served=tuple(served), ready=1, replicas=1, nodes=(name,))


def test_without_waves_each_site_is_told_its_own_and_is_done_when_it_serves_that() -> None:
    found = step(town(site("arm", 11, 11), site("amd", 1, 1)))
    told = {name: found.told("s/j", name) for name in ("arm", "amd")}
    assert {name: one.digest if one else "" for name, one in told.items()} == {"arm": digest(12), "amd": digest(2)}
    found = step(town(site("arm", 12, 12), site("amd", 2, 2)))
    (release,) = found.releases
    assert release.count(SiteState.UPDATED) == 2
    assert release.current == NEW
    assert [one.variants for one in release.history] == [NEW.variants]
    assert {one.site: one.variant for one in release.sites} == {"arm": "arch=arm64", "amd": ""}
    (release,) = step(town(site("arm", 2, 2, said="2"))).releases
    assert release.count(SiteState.UPDATED) == 0, "it serves the version, and not the artifact that is for it"


def history() -> tuple[ReleasedVersion, ...]:
    return (
        ReleasedVersion(
            version=OLD.version,
            digest=OLD.digest,
            sources=OLD.sources,
            variants=OLD.variants,
            finished="2026-01-01T00:00:00Z",
        ),
    )


def test_in_waves_the_machine_sees_versions_and_the_sites_artifacts() -> None:
    before = town(site("arm", 11, 11), site("amd", 1, 1), rollout=WAVES, history=history())
    found = step(before)
    told = {name: found.told("s/j", name) for name in ("arm", "amd")}
    assert {name: one.digest if one else "" for name, one in told.items()} == {"arm": digest(12), "amd": digest(1)}
    (release,) = found.releases
    assert release.decision is not None
    assert release.decision.progress.target == NEW.identity
    assert release.decision.stable == OLD.identity
    after = town(
        site("arm", 12, 12), site("amd", 1, 1), rollout=WAVES, history=history(), remembered=release.remembered
    )
    found = step(after)
    assert (found.told("s/j", "amd") or OLD).digest == digest(2), "its wave has come"


def test_a_variant_that_is_refused_takes_the_whole_version_back_to_each_sites_own_artifact() -> None:
    begun = step(town(site("arm", 11, 11), site("amd", 1, 1), rollout=WAVES, history=history())).releases[0]
    found = step(
        town(
            site("arm", 12, 11, refused=12),
            site("amd", 1, 1),
            rollout=WAVES,
            history=history(),
            remembered=begun.remembered,
        )
    )
    (release,) = found.releases
    assert release.remembered is not None
    assert release.remembered.phase == "RolledBack"
    assert [one.identity for one in release.refused] == [NEW.identity]
    told = {name: found.told("s/j", name) for name in ("arm", "amd")}
    assert {name: one.digest if one else "" for name, one in told.items()} == {"arm": digest(11), "amd": digest(1)}


def test_a_variant_that_comes_to_a_version_goes_out_in_waves_too() -> None:
    plain = version("1", 1)
    more = version("1", 1, variant(11, arch="arm64"))
    remembered = ReleasedVersion(
        version="1", digest=plain.digest, sources=plain.sources, finished="2026-01-01T00:00:00Z"
    )
    first_others = AskedRollout(waves=(AskedWave(name="first", sites=WaveSites(names=("amd",))), AskedWave(name="all")))
    state = {"rollout": first_others, "history": (remembered,), "target": more}
    jobs = (Job("s", "j", "u", model_name="m", model_digest=more.digest),)
    found = step(replace(town(site("arm", 1, 1), **state), jobs=jobs))
    assert (found.told("s/j", "arm") or more).digest == digest(1), "the first wave has no site yet"
