"""What a namespace allows to its jobs, and what of a job and of a site is read for the constraints and the terms."""

from itertools import product

import pytest

from edgeward.fleet.build import build
from edgeward.fleet.model import Fleet, Job, Namespace, Resources, Site
from edgeward.fleet.settings import BuildSettings
from edgeward.placement.formulas import priority_tier

from .objects import NOW, Raw, ago, assignment, fleet, job, node, only_job, site


def namespace(name: str = "shop", **labels: str) -> Raw:
    return {
        "metadata": {"name": name, "labels": {f"edgeward.dev/{key.replace('_', '-')}": v for key, v in labels.items()}}
    }


def with_limits(*jobs: Raw, spaces: list[Raw], default: int = 5) -> Fleet:
    none: tuple[Raw, ...] = ()
    return build(now=NOW, nodes=none, pods=none, jobs=jobs, releases=none, sites=none, assignments=none,
                 namespaces=spaces, settings=BuildSettings(max_priority_tier=default))  # fmt: skip


def test_labels_become_limits_and_other_namespaces_are_left_out() -> None:
    spaces = [
        namespace("b", max_replicas="20", max_cpu="1500m", max_priority_tier="3"),
        namespace("a", max_cpu="4"),
        namespace("c"),
    ]
    found = with_limits(spaces=spaces, default=4)
    assert found.namespaces == (Namespace("a", max_cpu=4000), Namespace("b", 20, 1500, 3))
    assert found.max_priority_tier == 4


@pytest.mark.parametrize(
    ("labels", "default", "refused"),
    [
        ({}, 5, ()),
        ({}, 3, (4, 5)),
        ({"max_priority_tier": "2"}, 5, (3, 4, 5)),
        ({"max_priority_tier": "5"}, 1, ()),
        ({"max_replicas": "1"}, 4, (5,)),
    ],
)
def test_a_job_above_its_namespaces_highest_tier_is_refused_and_never_lowered(
    labels: dict[str, str], default: int, refused: tuple[int, ...]
) -> None:
    for marks in product(range(1, 6), repeat=3):
        asked = dict(zip(("importance", "urgency", "satisfaction"), marks, strict=True))
        (found,) = with_limits(job(priority=asked), spaces=[namespace(**labels)], default=default).jobs
        assert (found.problem is not None) == (priority_tier(*marks) in refused), marks
        assert (found.priority.importance, found.priority.urgency, found.priority.satisfaction) == marks
        if found.problem:
            assert (found.problem.reason, found.problem.path) == ("PolicyForbids", "spec.priority")


def test_the_refusal_says_which_limit_and_what_to_do() -> None:
    top = {"importance": 5, "urgency": 5, "satisfaction": 5}
    (found,) = with_limits(job(priority=top), spaces=[namespace(max_priority_tier="3")]).jobs
    assert found.problem is not None
    assert found.problem.message == (
        "spec.priority makes priority tier 5; namespace shop may have 3 at most (label edgeward.dev/max-priority-tier):"
        " lower importance, urgency or satisfaction, or have the limit raised"
    )
    (found,) = with_limits(job(priority=top), spaces=[], default=3).jobs
    assert found.problem is not None and "(the default of this cluster)" in found.problem.message


@pytest.mark.parametrize(
    ("label", "value"),
    [("max_replicas", "many"), ("max_replicas", "-1"), ("max_replicas", "1.5"), ("max_cpu", "lots"), ("max_cpu", "-1"),
     ("max_priority_tier", "6"), ("max_priority_tier", "0"), ("max_priority_tier", "high")],
)  # fmt: skip
def test_a_limit_that_nobody_can_read_protects_and_touches_no_other_namespace(label: str, value: str) -> None:
    other = job("other")
    other["metadata"]["namespace"] = "yard"
    found = with_limits(job(), other, spaces=[namespace(**{label: value}), namespace("yard")])
    problem, free = (item.problem for item in found.jobs)
    assert problem is not None and problem.reason == "PolicyForbids"
    assert f"edgeward.dev/{label.replace('_', '-')} of namespace shop is {value!r}" in problem.message
    assert free is None


def asking(**spec: object) -> Job:
    return only_job(jobs=[job(**spec)])


def test_what_a_job_asks_for_in_units() -> None:
    found = asking(
        slo={"latency": "80ms", "throughput": "20.5"},
        data={"source": {"siteSelector": {"matchLabels": {"a": "b"}}}, "requestSize": "150Ki", "responseSize": "2Ki",
              "residency": "Region", "maxDrain": "1500ms"},
        placement={"spread": {"maxPerSite": 2, "minSites": 3}, "minBandwidth": "1.5M"},
        disconnect={"lostAfter": "1m", "replace": False},
        resources={"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "2Gi", "x.io/npu": 2},
                   "limits": {"x.io/npu": 2, "y.io/card": "1"}},
    )  # fmt: skip
    assert found.problem is None
    assert (found.slo_latency, found.slo_throughput, found.request_bytes, found.response_bytes) == (
        0.08,
        20.5,
        153600,
        2048,
    )
    assert (found.residency, found.max_drain, found.min_bandwidth) == ("Region", 1.5, 1.5e6)
    assert (found.max_per_site, found.min_sites, found.lost_after, found.replace_lost) == (2, 3, 60.0, False)
    assert found.request == Resources(1000, 1 << 30, 1, 2 << 30, (("x.io/npu", 2), ("y.io/card", 1)))


def test_a_job_that_asks_for_nothing_of_this() -> None:
    found = asking()
    assert (found.slo_latency, found.slo_throughput, found.max_drain, found.min_bandwidth) == (None,) * 4
    assert (found.residency, found.max_per_site, found.min_sites, found.replace_lost) == ("Anywhere", None, None, True)
    assert (found.request.storage, found.request.extended) == (0, ())


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"residency": "Site"}, "spec.data.source.siteSelector"),
        ({"residency": "Region", "source": {}}, "spec.data.source.siteSelector"),
        ({"maxDrain": "1s"}, "spec.data.source.siteSelector"),
        ({"maxDrain": "1s", "source": {"siteSelector": {}}}, "spec.data.requestSize"),
    ],
)
def test_a_protection_that_says_too_little_to_be_kept_is_refused(data: Raw, field: str) -> None:
    problem = asking(data=data).problem
    assert problem is not None
    assert (problem.reason, problem.path) == ("InvalidSpec", field)
    assert field in problem.message


def test_since_when_a_job_waits_is_read_from_its_condition() -> None:
    def waiting(state: str) -> float | None:
        condition = {"type": "Placed", "status": state, "reason": "NoCapacity", "lastTransitionTime": ago(700)}
        return only_job(jobs=[job(status={"conditions": [condition]})]).waiting_since

    assert waiting("False") == NOW - 700
    assert waiting("True") is None
    assert only_job(jobs=[job()]).waiting_since is None


def only_site(*sites: Raw, **parts: object) -> Site:
    return fleet(sites=list(sites), **parts).sites[0]


def test_what_a_site_costs_burns_and_allows() -> None:
    found = only_site(site("edge", cost={"cpuHour": "0.04", "egressGiB": "0.09"}, power={"wattsPerCpu": "12.5"},
                           quota={"replicas": 3, "cpu": "1500m"}))  # fmt: skip
    assert (found.cost_cpu_hour, found.cost_egress_gib, found.watts_per_cpu) == (0.04, 0.09, 12.5)
    assert (found.quota_replicas, found.quota_cpu) == (3, 1500)
    bare = only_site(site("edge"))
    assert (bare.cost_cpu_hour, bare.cost_egress_gib, bare.watts_per_cpu, bare.quota_replicas, bare.quota_cpu) == (
        None,
    ) * 5
    assert only_site(site("edge", quota={"replicas": 0})).quota_replicas == 0, "nothing at all, not no limit"


def test_a_site_is_in_the_region_that_all_its_nodes_name_unless_it_says_otherwise() -> None:
    def labelled(name: str, region: str | None) -> Raw:
        raw = node(name)
        if region:
            raw["metadata"]["labels"]["topology.kubernetes.io/region"] = region
        return raw

    assert only_site(nodes=[labelled("a", "north"), labelled("b", "north")]).region == "north"
    assert only_site(nodes=[labelled("a", "north"), labelled("b", "south")]).region == ""
    assert only_site(nodes=[labelled("a", "north"), labelled("b", None)]).region == ""
    declared = site("edge", nodeSelector={"edgeward.dev/tier": "edge"}, region="west")
    assert only_site(declared, nodes=[labelled("a", "north")]).region == "west"


def test_what_a_forbidden_job_runs_already_stays_its_own() -> None:
    top = {"importance": 5, "urgency": 5, "satisfaction": 5}
    none: tuple[Raw, ...] = ()
    found = build(now=NOW, nodes=[node()], pods=none, jobs=[job(priority=top)], releases=none, sites=none,
                  assignments=[assignment({"name": "n1", "replicas": 1})],
                  namespaces=[namespace(max_priority_tier="1")]).jobs[0]  # fmt: skip
    assert found.problem is not None
    assert [(item.node, item.replicas) for item in found.placed] == [("n1", 1)]


@pytest.mark.parametrize(("said", "kept"), [("Raw", "Raw"), ("Sketch", "Sketch"), ("None", "None")])
def test_a_namespace_may_say_what_is_kept_of_requests(said: str, kept: str) -> None:
    found = with_limits(job(), spaces=[namespace(redaction=said)])
    assert found.namespaces == (Namespace("shop", redaction=kept),)
    assert found.jobs[0].problem is None


def test_a_redaction_that_cannot_be_read_is_the_strictest_and_is_said() -> None:
    found = with_limits(job(), spaces=[namespace(redaction="sketch")])
    assert found.namespaces == (Namespace("shop", redaction="None"),)
    problem = found.jobs[0].problem
    assert problem is not None and problem.reason == "PolicyForbids"
    assert problem.message.startswith(
        "label edgeward.dev/redaction of namespace shop is 'sketch': one of Raw, Features"
    )
