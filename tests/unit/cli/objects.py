"""A small fleet of shops, a hub and a cloud, for the commands' tests: settled, recorded, with models that can be run."""

from __future__ import annotations

from dataclasses import replace

from edgeward.fleet.model import Fleet, ModelVersion, Priority, Release, Resources
from edgeward.placement import plan
from edgeward.placement.record import Record, record
from edgeward.placement.settings import PlanSettings
from edgeward.placement.whatif import run
from tests.unit.placement.strategies import GI, MI, NOW, fleet, job, node

DIGEST = "sha256:" + "a" * 64
SETTINGS = PlanSettings()


def shops() -> Fleet:
    """Four shops of one small node each, a hub, a cloud; four jobs, all of which run."""
    small, middle, large = Resources(2000, 4 * GI, 110), Resources(4000, 8 * GI, 110), Resources(8000, 16 * GI, 110)
    nodes = [node(f"shop-{number}-a", site=f"shop-{number}", allocatable=small) for number in range(1, 5)]
    nodes += [node("hub-1", site="hub", tier="fog", allocatable=middle)]
    nodes += [node("cloud-1", site="cloud", tier="cloud", allocatable=large)]
    edge = frozenset({"edge"})
    jobs = [
        job("brake-watch", replicas=2, priority=Priority(5, 5, 5), tiers=edge, request=Resources(1500, 512 * MI, 1)),
        job("sign-reader", replicas=3, priority=Priority(4, 5, 3), tiers=edge, request=Resources(900, 512 * MI, 1)),
        job(
            "page-turner", replicas=4, priority=Priority(2, 2, 2), tiers=edge | {"fog"}, request=Resources(1000, GI, 1)
        ),
        job("file-sorter", replicas=2, priority=Priority(1, 1, 1), request=Resources(500, 512 * MI, 1)),
    ]
    jobs = [replace(one, model_digest=DIGEST) for one in jobs]
    version = ModelVersion("m", "1.0.0", DIGEST, ("oci://models.example/m",))
    new = fleet(nodes, jobs, releases=(Release("test", "m", target=version),))
    settled = run(new, lambda one: plan(one, SETTINGS), SETTINGS).fleet
    hour = NOW - 3600
    return replace(
        settled,
        jobs=tuple(
            replace(
                one,
                explained=True,
                placed=tuple(replace(item, since=hour, started=(hour,) * item.replicas) for item in one.placed),
            )
            for one in settled.jobs
        ),
    )


def recorded() -> Record:
    found = shops()
    return record(found, SETTINGS, made=plan(found, SETTINGS))
