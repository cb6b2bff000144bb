"""Explanations as a person would read them, kept as text and reviewed by eye.

After a wanted change: EDGEWARD_UPDATE_GOLDEN=1 pytest tests/unit/placement/test_explain.py, then read the diff.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import (
    Exclusion,
    Fleet,
    Live,
    Node,
    Placed,
    Priority,
    Resources,
    Sample,
    Site,
    Taint,
)
from edgeward.placement import JobPlan, Term, plan
from tests.unit.placement.strategies import DIGESTS, GI, MI, NOW, fleet, job, node, placed

GOLDEN = Path(__file__).parent / "golden"


def render(one: JobPlan) -> str:
    lines = [
        f"job {one.key}: wanted {one.wanted}, missing {one.missing}, priority tier {one.priority_tier}, P {one.p}",
        f"reason {one.reason or '-'}: {one.message or '-'}",
    ]
    lines += [
        f"placed {p.replicas} on {p.node} ({p.tier}, site {p.site}), score {p.score:.4f}{', lost' if p.lost else ''}"
        for p in one.placements
    ]
    seen = one.explanation
    lines.append(f"order: {seen.order}")
    if seen.figures is not None:
        figures = seen.figures
        live = "unknown" if figures.live_cores is None else f"{figures.live_cores:g} cores"
        lines.append(f"{seen.node}: {_terms(seen.terms)}")
        lines.append(
            f"  cores C {figures.cores:g}, free R {figures.free_cores:.4g}, live {live} ({_seconds(figures.live_age)} old, "
            f"confidence {figures.confidence:.2f}), in flight {figures.in_flight_cores:g}"
        )
        lines.append(
            f"  requested {figures.requested.cpu}m of {figures.allocatable.cpu}m, load l {figures.load:.4f}, "
            f"K share {figures.capability_share:.3f}, T_d {_seconds(figures.transfer_seconds)}, "
            f"completion {_seconds(figures.completion_seconds)}"
        )
    for other in seen.runners_up:
        lines.append(f"then {other.node} (site {other.site}) {other.score:.4f}: {other.why}")
        lines.append(f"  {_terms(other.terms)}")
    lines += [f"rejected {r.count} {r.reason}, nearest: {r.nearest_miss}" for r in seen.rejected]
    lines += [f"note: {note}" for note in seen.notes]
    if one.proposed:
        lines.append(f"proposed: {one.proposed.source} -> {one.proposed.target}, seen {one.proposed.evaluations} times")
    return "\n".join(lines) + "\n"


def _terms(terms: tuple[Term, ...]) -> str:
    return " + ".join(f"{t.name} {t.weight:.3f}x{t.value:.3f}" + ("?" if t.confidence < 1 else "") for t in terms)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g} s"


def _node(name: str, site: str, cores: float | None, **changes: object) -> Node:
    live = Live() if cores is None else Live(cpu=Sample(cores, NOW - 12), memory=Sample(GI, NOW - 12))
    return node(name, site=site, **{"live": live, **changes})


SITES = (
    Site("junction", "edge", bandwidth=20e6, rtt=0.03),
    Site("harbour", "edge", bandwidth=5e6, rtt=0.08),
    Site("cloud", "cloud", bandwidth=1e9, rtt=0.002),
)
DEMO = (
    _node("edge-1", "junction", 3.7, models=frozenset(DIGESTS[:1])),
    _node("edge-2", "harbour", 0.3),
    _node("cloud-1", "cloud", 5.0, tier="cloud", allocatable=Resources(16000, 64 * GI, 110), speed=2.0),
    _node("old-1", "harbour", None, taints=(Taint("retired", "", "NoSchedule"),)),
)
READER = job(
    "sign-reader",
    replicas=2,
    priority=Priority(4, 5, 3),
    service_seconds=0.04,
    request_bytes=150 * 1024,
    response_bytes=2048,
    source_selector=LabelSelector(match_labels={"edgeward.dev/tier": "edge"}),
)


def loaded_edge() -> Fleet:
    """The demo's story: one edge node is under load that no request shows, so it is avoided in spite of its model."""
    return fleet(DEMO, [READER], sites=SITES)


def nowhere() -> Fleet:
    """Every kind of refusal at once; the nearest miss tells what is the least to change."""
    full = _node("edge-3", "junction", 1.0, foreign=Resources(3800, GI, 9))
    refused = _node("edge-4", "junction", 1.0)
    away = _node("edge-5", "harbour", None, ready=False, not_ready_since=NOW - 130)
    one = replace(
        READER,
        tiers=frozenset({"edge"}),
        exclusions=(Exclusion("edge-4", "FailedMount", "volume is busy", 2, NOW + 45),),
    )
    crowded = replace(DEMO[0], foreign=Resources(3600, GI, 9))
    return fleet([crowded, DEMO[2], DEMO[3], full, refused, away], [one], sites=SITES)


def doubtful() -> Fleet:
    """One node's figures are old, one's are rubbish, one's are gone."""
    nodes = [
        replace(DEMO[0], live=Live(cpu=Sample(0.5, NOW - 120))),
        replace(DEMO[1], live=Live(cpu=Sample(-3.0, NOW - 5))),
        replace(DEMO[2], live=Live(distrust="two series for one node, 1.0 and 9.9")),
    ]
    return fleet(
        nodes, [replace(READER, service_seconds=None)], sites=SITES, metrics_problem="Prometheus: 1 of 3 targets"
    )


def lost_and_stuck() -> Fleet:
    """A lost replica is replaced; another one sits where the job is no longer allowed and nothing else has room."""
    small = _node("edge-6", "harbour", 0.2, allocatable=Resources(700, 2 * GI, 20))
    away = replace(DEMO[0], ready=False, not_ready_since=NOW - 400)
    one = replace(
        READER,
        replicas=2,
        tiers=frozenset({"edge"}),
        placed=(
            placed(DEMO[0], ready=0, lost_since=NOW - 400),
            Placed("cloud-1", "cloud", 1, 1, (NOW - 3600,), since=NOW - 3600),
        ),
    )
    return fleet([away, small, DEMO[2]], [one], sites=SITES)


def better_elsewhere() -> Fleet:
    """An incumbent on a loaded node: the gain is there, seen for the first time."""
    return fleet(DEMO, [replace(READER, replicas=1, placed=(placed(DEMO[0]),))], sites=SITES)


@pytest.mark.parametrize("story", [loaded_edge, nowhere, doubtful, lost_and_stuck, better_elsewhere])
def test_golden(story: object) -> None:
    assert callable(story)
    (one,) = plan(story()).jobs
    file = GOLDEN / f"{story.__name__}.txt"
    if os.environ.get("EDGEWARD_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(render(one))
    assert render(one) == file.read_text()


def test_every_figure_can_be_recomputed_from_what_is_shown() -> None:
    """The load term from C, the live cores, what is in flight and the confidence; the score from the terms."""
    for story in (loaded_edge, doubtful, better_elsewhere):
        (one,) = plan(story()).jobs
        seen, figures = one.explanation, one.explanation.figures
        assert figures is not None
        live = (figures.live_cores or 0.0) + figures.in_flight_cores
        used = figures.confidence * live + (1 - figures.confidence) * figures.requested.cpu / 1000
        load = 1 - max(0.0, figures.cores - used) / figures.cores
        assert figures.load == pytest.approx(load)
        terms = {t.name: t for t in seen.terms}
        assert terms["load"].value == pytest.approx((1 - load) * (1 - 0.5 * (1 - figures.confidence)))
        score = next(p.score for p in one.placements if p.node == seen.node)
        assert sum(t.weight * t.value for t in seen.terms) == pytest.approx(score)


def test_notes_runners_up_and_rejections_are_bounded() -> None:
    nodes = [node(f"n{i}", live=Live(cpu=Sample(-1.0, NOW)), foreign=Resources(0, i * MI, 1)) for i in range(40)]
    (one,) = plan(fleet(nodes, [job()])).jobs
    assert len(one.explanation.notes) == 10
    assert len(one.explanation.runners_up) == 3
