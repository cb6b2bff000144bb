"""Statuses: the truth table row by row as whole objects, held against kstatus and the CRDs, and no news no write."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelRelease
from edgeward.fleet.model import Fleet, Live, Sample
from edgeward.fleet.podspec import PodSpec
from edgeward.hub.narrate import job_events, release_events
from edgeward.hub.release_status import release_status
from edgeward.hub.status import freshness, job_status
from edgeward.placement.model import JobPlan, Placement, Plan
from edgeward.placement.plan import plan as make_plan
from edgeward.rollout import podmemory
from edgeward.rollout.model import Decision, Progress
from edgeward.rollout.step import step
from tests.unit.fleet.objects import DIGEST, NOW, OTHER, Raw, ago, assignment, build, job, node, release

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"


def schema(plural: str) -> Raw:
    crd = yaml.safe_load((ROOT / f"crds/edgeward.dev_{plural}.yaml").read_text())
    found: Raw = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return found


SCHEMAS = {plural: schema(plural) for plural in ("inferencejobs", "modelreleases")}


def kstatus(status: Raw) -> str:
    """As kstatus reads it: Stalled, then Reconciling, then Ready. Source: the kstatus README, "conditions"."""
    said = {item["type"]: item["status"] for item in status["conditions"]}
    if said.get("Stalled") == "True":
        return "Failed"
    if said.get("Reconciling") == "True" or said.get("Ready") != "True":
        return "InProgress"
    return "Current"


def live(cpu: float = 0.5, age: float = 5) -> dict[str, Live]:
    sample = Live(cpu=Sample(cpu, NOW - age), memory=Sample(1e9, NOW - age))
    return {"n1": sample, "n2": sample}


def seen(raw: Raw, *told: Raw, releases: Any = None, nodes: Any = None, now: float = NOW, **more: Any) -> Fleet:
    return build(
        now=now,
        nodes=[node("n1"), node("n2", edgeward_dev__site="other")] if nodes is None else nodes,
        pods=[],
        jobs=[raw],
        releases=[release()] if releases is None else releases,
        sites=[],
        assignments=told,
        **{"live": live(), **more},
    )


def of_job(raw: Raw, *told: Raw, whole: Plan | None = None, **more: Any) -> Raw:
    fleet = seen(raw, *told, **more)
    whole = whole or make_plan(fleet)
    (facts,) = fleet.jobs
    one = whole.job(facts.key)
    assert one is not None
    found = to_dict(
        job_status(
            parse(InferenceJob, raw),
            facts,
            one,
            whole=whole,
            fleet=fleet,
            assignments=[parse(Assignment, item) for item in told],
        )
    )
    jsonschema.validate(found, SCHEMAS["inferencejobs"])
    return found


def of_release(raw: Raw, *told: Raw, job: Raw, **more: Any) -> Raw:
    fleet = seen(job, *told, releases=[raw], **more)
    (facts,), (said,) = fleet.releases, step(fleet).releases
    problem = f"{facts.problem.reason} {facts.problem.message}" if facts.problem else ""
    found = to_dict(release_status(parse(ModelRelease, raw), problem, said, now=fleet.now))
    jsonschema.validate(found, SCHEMAS["modelreleases"])
    return found


def at_work(*, ready: int = 1, told: list[Raw] | None = None, models: list[Raw] | None = None, **report: Any) -> Raw:
    serving = [{"name": "m", "version": "1.0", "digest": DIGEST, "serving": True, "replicas": 1, "state": "Serving"}]
    status = {
        "readyReplicas": ready,
        "replicas": 1,
        "nodes": [{"name": "n1", "replicas": 1, "ready": ready, **report}],
        "models": (serving if ready else []) if models is None else models,
    }
    return assignment({"name": "n1", "replicas": 1, "since": ago(400)}, models=told, status=status)


def at_watched(*, requests: int, errors: int = 0) -> Raw:
    """A site that told a moment ago what happened since the bake began."""
    found = at_work()
    counted = {"digest": DIGEST, "requests": requests, "errors": errors, "since": ago(200), "at": ago(1)}
    found["status"]["counters"] = [counted]
    return found


OLD = {"name": "m", "version": "0.9", "digest": OTHER, "sources": ["https://models/old"]}
OLD_SERVES = {"name": "m", "version": "0.9", "digest": OTHER, "serving": True, "replicas": 1, "state": "Serving"}
REFUSED = {
    "name": "m",
    "version": "1.0",
    "digest": DIGEST,
    "state": "Failed",
    "refused": {"step": "Verify", "reason": "DigestMismatch", "message": "the bytes are sha256:c0ffee", "at": ago(30)},
}
IN_WAVES = {"waves": [{"name": "canary", "sites": {"count": 1}}, {"name": "all"}]}
TAKEN_BACK = {
    "rollout": {"target": DIGEST, "phase": "RolledBack", "started": ago(90), "why": "gate errors: 0.2"},
    "refused": [{"version": "1.0", "identity": DIGEST, "reason": "gate errors: 0.2", "at": ago(30)}],
    "history": [{"version": "0.9", "digest": OTHER, "sources": ["https://models/old"], "finished": ago(900)}],
}
GATES = [{"name": "errors", "builtin": "ErrorRate", "max": "0.05", "minSamples": 100}]
BAKING = {
    "rollout": {"target": DIGEST, "phase": "Baking", "started": ago(300), "bakingSince": ago(200), "members": ["edge"]},
    "history": TAKEN_BACK["history"],
    "gates": [
        {
            **{"name": "errors", "outcome": "Passed", "looks": 1, "passes": 1, "value": "0.01", "samples": 200},
            **{"threshold": "at most 0.05", "at": ago(60), "message": "0.01, allowed is at most 0.05"},
            "checks": [{"at": ago(60), "outcome": "Passed", "value": "0.01", "threshold": "at most 0.05"}],
        }
    ],
}
UNSIGNED = {
    **{"name": "m", "version": "1.0", "digest": DIGEST, "replicas": 1, "state": "Serving"},
    "warning": {"step": "Signature", "reason": "SignatureMissing", "message": "nobody signed it", "at": ago(30)},
}
PROBLEM = at_work()
PROBLEM["status"]["conditions"] = [
    {
        "type": "Applied",
        "status": "False",
        "reason": "PolicyForbids",
        "message": "no hostPath",
        "lastTransitionTime": ago(9),
    }
]
BUSY = [node("n1"), node("n2", edgeward_dev__site="other")]
TINY = {"requests": {"cpu": "64"}}

FROM_OTHER = {"siteSelector": {"matchLabels": {"edgeward.dev/site": "other"}}}
CORDONED = node("n2", edgeward_dev__site="other")
CORDONED["spec"]["unschedulable"] = True


def labelled(label: str, value: str) -> Raw:
    return {"metadata": {"name": "shop", "labels": {f"edgeward.dev/{label}": value}}}


ROWS: dict[str, tuple[Any, str, str]] = {
    "serving": (lambda: of_job(job(), at_work()), "Current", "Serving"),
    "pods-starting": (
        lambda: of_job(job(), at_work(ready=0, reason="Starting", since=ago(3))),
        "InProgress",
        "PodsStarting",
    ),
    "pod-change-stuck": (
        lambda: of_job(job(), at_work(reason="PodUpdating", message="ImagePullBackOff: no such tag", since=ago(3))),
        "InProgress",
        "PodsStarting",
    ),
    "no-room": (lambda: of_job(job(resources=TINY)), "InProgress", "TooBigForAnyNode"),
    "forbidden-by-the-site": (lambda: of_job(job(), PROBLEM), "Failed", "PolicyForbids"),
    "where-its-data-may-not-be": (
        lambda: of_job(job(data={"residency": "Site", "source": FROM_OTHER}), at_work(), nodes=[node("n1"), CORDONED]),
        "Failed",
        "ResidencyForbids",
    ),
    "over-its-namespaces-quota": (
        lambda: of_job(job(replicas=2), at_work(), namespaces=[labelled("max-replicas", "1")]),
        "Failed",
        "QuotaExceeded",
    ),
    "above-its-namespaces-tier": (
        lambda: of_job(job(), namespaces=[labelled("max-priority-tier", "2")]),
        "Failed",
        "PolicyForbids",
    ),
    "no-model-yet": (lambda: of_job(job(), releases=[]), "InProgress", "NoRunnableModel"),
    "protection-not-yet-there": (
        lambda: of_job(job(disconnect={"stopLocalAfter": "1h"}), at_work()),
        "Failed",
        "FeatureNotYetAvailable",
    ),
    "release-deleted-while-serving": (lambda: of_job(job(), at_work(), releases=[]), "Current", "Serving"),
    "metrics-absent": (
        lambda: of_job(job(), at_work(), live={}, metrics_problem="Prometheus is down"),
        "Current",
        "Serving",
    ),
    "nothing-wanted": (lambda: of_job(job(replicas=0)), "Current", "NothingWanted"),
    "model-refused": (
        lambda: of_job(
            job(), at_work(ready=0, models=[REFUSED], reason="ModelRefused", message="Verify", since=ago(3))
        ),
        "InProgress",
        "NoRunnableModel",
    ),
    "release-rolling": (
        lambda: of_release(release(), at_work(told=[OLD], models=[OLD_SERVES]), job=job()),
        "InProgress",
        "RollingOut",
    ),
    "release-paused": (
        lambda: of_release(release(paused=True), at_work(told=[OLD], models=[OLD_SERVES]), job=job()),
        "InProgress",
        "Paused",
    ),
    "release-done": (lambda: of_release(release(), at_work(), job=job()), "Current", "Released"),
    "release-done-but-one-offline": (
        lambda: of_release(
            release(),
            at_work(),
            assignment({"name": "n2", "replicas": 1}, site="other", models=[OLD], status={"models": [OLD_SERVES]}),
            job=job(replicas=2),
            nodes=[node("n1"), node("n2", ready=False, edgeward_dev__site="other")],
        ),
        "Current",
        "Released",
    ),
    "release-refused": (
        lambda: of_release(release(), at_work(models=[OLD_SERVES, REFUSED]), job=job()),
        "Failed",
        "VerifyFailed",
    ),
    "release-serves-unsigned-under-warn": (
        lambda: of_release(release(), at_work(models=[{**UNSIGNED, "serving": True}]), job=job()),
        "Current",
        "Released",
    ),
    "release-rolled-back": (
        lambda: of_release(
            release(rollout=IN_WAVES, status=TAKEN_BACK), at_work(told=[OLD], models=[OLD_SERVES]), job=job()
        ),
        "Failed",
        "RolledBack",
    ),
    "release-waits-for-data": (
        lambda: of_release(release(gates=GATES, status=BAKING), at_watched(requests=7), job=job()),
        "InProgress",
        "WaitingForData",
    ),
    "release-failed-its-gate": (
        lambda: of_release(release(gates=GATES, status=BAKING), at_watched(requests=400, errors=30), job=job()),
        "Failed",
        "RolledBack",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_truth_table_row_by_row(name: str) -> None:
    """Set EDGEWARD_GOLDEN=write to write the files anew, and read the difference before it is committed."""
    make, verdict, reason = ROWS[name]
    status = make()
    ready = next(item for item in status["conditions"] if item["type"] == "Ready")
    assert (kstatus(status), ready["reason"]) == (verdict, reason)
    # Scores and their explanation belong to the planner and have golden files of their own.
    status.pop("explanation", None)
    for decision in status.get("decisions", []):
        del decision["score"]
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("EDGEWARD_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(status, sort_keys=False, width=120))
    assert yaml.safe_load(path.read_text()) == status


def said(status: Raw, kind: str) -> str | None:
    return next((item["status"] for item in status["conditions"] if item["type"] == kind), None)


def test_companions_of_serving() -> None:
    assert said(ROWS["release-deleted-while-serving"][0](), "ModelReleaseMissing") == "True"
    assert said(ROWS["metrics-absent"][0](), "MetricsFresh") == "False"
    assert said(ROWS["serving"][0](), "ModelReleaseMissing") is None
    assert said(ROWS["release-rolled-back"][0](), "RolledBack") == "True"
    assert said(ROWS["release-done"][0](), "RolledBack") is None
    for name in ("serving", "pods-starting"):
        assert said(ROWS[name][0](), "Placed") == "True"
    for name in ("no-room", "forbidden-by-the-site", "no-model-yet"):
        assert said(ROWS[name][0](), "Placed") == "False"


def test_nothing_changes_while_only_figures_and_ages_drift() -> None:
    first = of_job(job(), at_work())
    for later, cpu in ((7, 0.6), (60, 0.9), (3000, 0.55)):
        drifted = {name: Live(cpu=Sample(cpu, NOW + later - 5)) for name in ("n1", "n2")}
        again = of_job(job(status=first), at_work(), now=NOW + later, live=drifted)
        assert json.dumps(again) == json.dumps(first)


def test_the_share_of_the_bound_comes_after_the_decision_and_stays() -> None:
    raw, told = job(), assignment()

    def pass_with(before: Raw | None, share: float | None) -> Raw:
        one = raw if before is None else {**raw, "status": before}
        whole = make_plan(seen(one, told))
        jobs = tuple(replace(item, explanation=replace(item.explanation, share_of_bound=share)) for item in whole.jobs)
        return of_job(one, told, whole=replace(whole, jobs=jobs, _by_key={item.key: item for item in jobs}))

    first = pass_with(None, None)
    assert "shareOfBound" not in first["explanation"]
    known = pass_with(first, 0.9874)
    assert known["explanation"] == {**first["explanation"], "shareOfBound": 987}
    for share in (0.5, None):
        assert pass_with(known, share)["explanation"] == known["explanation"]


def wide(count: int, *, score: float = 0.5) -> tuple[Plan, list[Raw]]:
    """One job at so many sites; every tenth is not ready."""
    sites = [f"site-{number:04d}-in-a-town-with-a-rather-long-name" for number in range(count)]
    placements = tuple(Placement(f"node-of-{name}", name, "edge", 1, score, NOW - 100) for name in sites)
    told = [
        assignment(
            {"name": f"node-of-{name}", "replicas": 1},
            site=name,
            status={"nodes": [{"name": f"node-of-{name}", "replicas": 1, "ready": int(number % 10 > 0)}]},
        )
        for number, name in enumerate(sites)
    ]
    plain = make_plan(seen(job(replicas=count)))
    one = replace(plain.jobs[0], wanted=count, placements=placements, missing=0, reason="", message="")
    return replace(plain, jobs=(one,), _by_key={one.key: one}), told


def test_two_thousand_sites_fit_and_the_broken_ones_come_first() -> None:
    whole, told = wide(2000)
    status = of_job(job(replicas=2000), *told, whole=whole)
    assert len(json.dumps(status)) < 100 * 1024
    # While a change of the pods is at all of them at once, too.
    spec = PodSpec(template={"spec": {"containers": [{"name": "runtime", "image": "registry/" + "x" * 200}]}})
    rolling = Progress(target=spec.identity, members=tuple(one["spec"]["site"] for one in told), why="x" * 1024)
    decision = Decision(progress=rolling, told={}, stable=None, refused=())
    assert len(json.dumps({**status, "podRollout": podmemory.told(decision, spec)})) < 100 * 1024
    assert (len(status["decisions"]), status["decisionsOmitted"]) == (200, 1800)
    assert all(item["readyReplicas"] == 0 for item in status["decisions"])


def test_more_sites_than_are_listed_are_no_news_either() -> None:
    """What is not listed must not look like another decision in each pass."""
    whole, told = wide(250)
    first = of_job(job(replicas=250), *told, whole=whole)
    drifted, _ = wide(250, score=0.52)
    again = of_job(job(replicas=250, status=first), *told, whole=drifted, now=NOW + 60)
    assert json.dumps(again) == json.dumps(first)


def test_a_placement_that_is_in_no_assignment_yet_is_no_news_in_each_pass() -> None:
    """Its old Assignment is still ending: the planner finds it a place again, as of now, every second."""
    old = assignment({"name": "n1", "replicas": 1}, status={"nodes": [{"name": "n1", "replicas": 1, "ready": 1}]})
    old["metadata"]["deletionTimestamp"] = ago(3)

    def at(now: float, status: Raw | None) -> Raw:
        plain = make_plan(seen(job()))
        here = (Placement("n1", "edge", "edge", 1, 0.5, now),)
        one = replace(plain.jobs[0], placements=here, missing=0, reason="", message="")
        whole = replace(plain, jobs=(one,), _by_key={one.key: one})
        return of_job(job(status=status), old, whole=whole, now=now)

    first = at(NOW, None)
    assert json.dumps(at(NOW + 1, first)) == json.dumps(first)
    ready = next(item for item in first["conditions"] if item["type"] == "Ready")
    assert (ready["reason"], "the old Assignment at edge is still ending" in ready["message"]) == ("PodsStarting", True)


# Events --------------------------------------------------------------------------------------------------------------


def events(before: Raw | None, after: Raw) -> list[tuple[str, bool]]:
    empty = JobPlan(key="k", priority_tier=3, p=make_plan(seen(job())).jobs[0].p, wanted=1)
    read = [parse(InferenceJob, job(status=item or {})).status for item in (before, after)]
    return [(str(reason), warning) for reason, _, warning in job_events(read[0], read[1], empty)]


def test_what_is_news_is_told_once() -> None:
    starting, serving = ROWS["pods-starting"][0](), ROWS["serving"][0]()
    assert events(None, starting) == [("Placed", False)]
    assert events(starting, serving) == [("Serving", False)]
    assert events(serving, serving) == []
    assert events(serving, ROWS["metrics-absent"][0]()) == [("MetricsLost", True)]
    assert events(None, ROWS["no-room"][0]()) == [("TooBigForAnyNode", True)]


def test_a_change_of_pods_at_a_site_that_is_away_is_none_of_ready() -> None:
    """Nobody hears how it goes there; what is connected decides, as it does for replicas."""
    stuck = {"name": "n2", "replicas": 1, "ready": 1, "reason": "PodUpdating", "since": ago(90)}
    there = assignment({"name": "n2", "replicas": 1}, site="other", status={"nodes": [stuck]})
    away = [node("n1"), node("n2", ready=False, edgeward_dev__site="other")]
    found = of_job(job(replicas=2), at_work(), there, nodes=away)
    assert kstatus(found) == "Current"
    found = of_job(job(replicas=2), at_work(), there)
    (ready,) = [item for item in found["conditions"] if item["type"] == "Ready"]
    assert (ready["reason"], ready["message"]) == ("PodsStarting", "2/2 replicas serve; n2: PodUpdating")


def test_a_release_tells_of_start_refusal_and_end_once() -> None:
    def told(before: str | None, after: str) -> list[str]:
        read = [parse(ModelRelease, release(status=ROWS[name][0]() if name else {})).status for name in (before, after)]
        return [str(reason) for reason, _, _ in release_events(read[0], read[1])]

    assert told(None, "release-rolling") == ["ReleaseStarted"]
    assert told("release-rolling", "release-refused") == ["ModelRefused"]
    assert told("release-refused", "release-refused") == []
    assert told("release-rolling", "release-done") == ["ReleaseCompleted"]
    assert told("release-done", "release-done") == []


def test_a_late_scrape_is_no_news_and_a_doubted_sample_is() -> None:
    """Every job used to turn MetricsFresh False and back, with Events, whenever one scrape of one node came late."""
    fleet = Fleet(now=0.0)
    late = Plan(total_nodes=3, fresh_nodes=2, doubted_nodes=0)
    assert freshness(late, fleet, before=True) == (True, "")
    assert freshness(late, fleet, before=False)[0] is False, "once it was said, all have to be fresh again"
    doubted = Plan(total_nodes=3, fresh_nodes=2, doubted_nodes=1)
    assert freshness(doubted, fleet, before=True) == (
        False,
        "1 of 3 nodes have no fresh figures; they are judged by requests",
    )
    both = Plan(total_nodes=3, fresh_nodes=1, doubted_nodes=1)
    assert freshness(both, fleet, before=False) == freshness(doubted, fleet, before=True), "a late one is no news"
    gone = Fleet(now=0.0, metrics_problem="Prometheus is away")
    assert freshness(late, gone, before=True)[0] is True, "the last samples still hold"
    assert "Prometheus is away" in freshness(doubted, gone, before=True)[1]
