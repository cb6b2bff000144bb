"""Whatever live figures say, or do not say: an applied plan is not moved by any that cannot be true or cannot be known."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.fleet.model import Fleet, Job, Live, Placed, ProposedMove, Resources, Sample
from edgeward.placement import PlanSettings, plan
from edgeward.placement.model import JobPlan
from tests.unit.placement.strategies import GI, NOW, fleet, job, node

RESTLESS = PlanSettings(dwell=0, evaluations=1, evaluation_interval=0, moves_per_job=100, moves_per_site=100)
"""nothing but the figures themselves keeps a replica from moving"""
INCREDIBLE = st.sampled_from((math.nan, math.inf, -math.inf, -1.0, -1e-300, 1e300, 17.0))
UNTIMELY = st.sampled_from((math.nan, math.inf, -math.inf, NOW + 16, NOW + 1e300, NOW - 180, 0.0, -1e300))
BAD_SAMPLES = st.one_of(
    st.none(),
    st.builds(Sample, value=INCREDIBLE, at=st.sampled_from((NOW, NOW - 10))),
    st.builds(Sample, value=st.floats(0, 4), at=UNTIMELY),
)
BAD = st.builds(Live, cpu=BAD_SAMPLES, memory=BAD_SAMPLES, distrust=st.sampled_from(("", "two series for this node")))
HALF_BAD = st.builds(
    lambda cpu, memory: Live(cpu=Sample(cpu, NOW - 5), memory=memory),
    st.floats(0.01, 4.0),
    st.one_of(
        st.builds(Sample, value=st.sampled_from((math.nan, math.inf, -1.0, 1e18)), at=st.just(NOW - 5)),
        st.builds(Sample, value=st.floats(0, 8.0 * GI), at=UNTIMELY),
    ),
)
"""the cpu's is fresh, the memory's is there and not to be believed"""
GOOD = st.builds(lambda cpu: measured(cpu), st.floats(0.01, 4.0))


def applied(seen: Fleet) -> Fleet:
    """The same fleet with its plan carried out, an hour ago."""

    def placed(one: Job, made: JobPlan) -> tuple[Placed, ...]:
        return tuple(
            Placed(
                node=p.node,
                site=p.site,
                replicas=p.replicas,
                ready=p.replicas,
                started=(NOW - 3600,) * p.replicas,
                since=NOW - 3600,
            )
            for p in made.placements
        )

    plans = plan(seen, RESTLESS)
    jobs = tuple(
        replace(one, placed=placed(one, made)) for one in seen.jobs if (made := plans.job(one.key)) is not None
    )
    return replace(seen, jobs=jobs)


def tempted(seen: Fleet, names: list[str]) -> Fleet:
    """Each job has been about to move from its first node to one that it is not on: one more look would do it."""

    def proposal(one: Job) -> ProposedMove | None:
        held = [placed.node for placed in one.placed]
        free = [name for name in names if name not in held]
        return ProposedMove(held[0], free[0], evaluations=1, last_at=NOW - 60) if held and free else None

    return replace(seen, jobs=tuple(replace(one, proposed=proposal(one)) for one in seen.jobs))


def measured(cores: float) -> Live:
    return Live(cpu=Sample(cores, NOW - 5), memory=Sample(1.0 * GI, NOW - 5))


def places(made: JobPlan | None) -> list[tuple[str, int]]:
    assert made is not None
    return [(p.node, p.replicas) for p in made.placements]


@settings(max_examples=2 * settings.default.max_examples)
@given(
    before=st.lists(GOOD, min_size=3, max_size=6),
    bad=st.lists(st.one_of(BAD, HALF_BAD), min_size=6, max_size=6),
    honest=st.lists(GOOD, min_size=6, max_size=6),
    replicas=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    problem=st.sampled_from(("", "Prometheus did not answer")),
)
def test_replicas_on_nodes_with_bad_figures_stay(
    before: list[Live], bad: list[Live], honest: list[Live], replicas: list[int], problem: str
) -> None:
    """The others' figures are fresh and may be as good as they like."""
    nodes = [node(f"n{number}", site=f"s{number}", live=live) for number, live in enumerate(before)]
    seen = applied(fleet(nodes, [job(f"j{number}", replicas=count) for number, count in enumerate(replicas)]))
    held = {placed.node for one in seen.jobs for placed in one.placed}
    now_bad = tuple(
        replace(one, live=bad[number] if one.name in held else honest[number]) for number, one in enumerate(seen.nodes)
    )
    spoiled = replace(seen, nodes=now_bad, metrics_problem=problem)
    made = plan(tempted(spoiled, [one.name for one in seen.nodes if one.name not in held]), RESTLESS)
    for one in seen.jobs:
        decided = made.job(one.key)
        assert places(decided) == [(placed.node, placed.replicas) for placed in one.placed]
        assert decided is not None and decided.missing == 0 and not decided.moved


@settings(max_examples=2 * settings.default.max_examples)
@given(
    bad=st.lists(st.one_of(BAD, HALF_BAD), min_size=4, max_size=4),
    busy=st.floats(0.01, 4.0),
    problem=st.sampled_from(("", "Prometheus did not answer")),
)
def test_no_replica_is_drawn_to_a_node_with_bad_figures(bad: list[Live], busy: float, problem: str) -> None:
    """By requests they are empty, and what they say may be that they are idle."""
    here = node("here", site="home", live=measured(0.2), foreign=Resources(cpu=1000))
    seen = applied(fleet([here], [job(replicas=1)]))
    others = [node(f"n{number}", site=f"s{number}", live=live) for number, live in enumerate(bad)]
    grown = fleet([replace(here, live=measured(busy)), *others], seen.jobs, metrics_problem=problem)
    grown = tempted(grown, [other.name for other in others])
    assert places(plan(grown, RESTLESS).job("test/job")) == [("here", 1)]


@settings(max_examples=2 * settings.default.max_examples)
@given(live=BAD, other=BAD)
def test_new_replicas_are_placed_all_the_same_and_what_was_doubted_is_said(live: Live, other: Live) -> None:
    made = plan(fleet([node("a", site="a", live=live), node("b", site="b", live=other)], [job(replicas=2)]), RESTLESS)
    decided = made.job("test/job")
    assert decided is not None and decided.missing == 0
    assert (made.known_nodes, made.doubted_nodes) == (0, 2) and sum(count for _, count in made.doubts) == 2
    assert all(why for why, _ in made.doubts) and made.notes


def test_an_honest_figure_of_the_same_kind_does_move_a_replica() -> None:
    """So that the tests above can fail."""
    here = node("here", site="home", live=measured(0.2))
    seen = applied(fleet([here], [job(replicas=1)]))
    busy, idle = replace(here, live=measured(3.9)), node("idle", site="s")
    honest = tempted(fleet([busy, idle], seen.jobs), ["idle"])
    assert places(plan(honest, RESTLESS).job("test/job")) == [("idle", 1)]
