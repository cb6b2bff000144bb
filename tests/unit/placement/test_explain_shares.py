"""K/max K: the largest K of all that are shown, the chosen node among them, so that only the best has a share of 1."""

from __future__ import annotations

import pytest

from edgeward.fleet.model import Live, Sample
from edgeward.placement import plan
from tests.unit.placement.strategies import GI, NOW, fleet, job, node


def _live(cores: float) -> Live:
    return Live(cpu=Sample(cores, NOW - 10), memory=Sample(1.0 * GI, NOW - 10))


def test_a_runner_up_has_its_share_of_the_chosen_nodes_capability() -> None:
    nodes = [node("idle", site="a", live=_live(0.0)), node("busy", site="b", live=_live(2.5))]
    seen = plan(fleet(nodes, [job()])).jobs[0].explanation
    assert seen.node == "idle"
    assert seen.figures is not None
    runner = seen.runners_up[0].figures
    assert runner is not None
    assert seen.figures.capability_share == 1.0
    # The nodes are alike but for what is free of their cores, less the 0.5 that the job asks for.
    assert runner.capability_share == pytest.approx((4 - 2.5 - 0.5) / (4 - 0.5))
