"""What a job is to have now: the spec at first, then what status remembers, always within the bounds."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.fleet.model import Bounds, Job, Scaled

from .objects import NOW, ago, job, only_job

BOUNDS = {"minReplicas": 2, "maxReplicas": 6}


def of(said: dict[str, Any] | None = None, **spec: Any) -> Job:
    status = {"scaling": {"message": "measured", **said}} if said else {}
    return only_job(jobs=[job(status=status, **spec)])


@pytest.mark.parametrize(
    ("spec", "said", "replicas"),
    [
        ({"replicas": 3}, None, 3),
        ({"replicas": 3}, {"replicas": 5}, 3),
        ({"replicas": 3, "scaling": BOUNDS}, None, 3),
        ({"replicas": 1, "scaling": BOUNDS}, None, 2),
        ({"replicas": 9, "scaling": BOUNDS}, None, 6),
        ({"replicas": 3, "scaling": BOUNDS}, {"replicas": 5}, 5),
        ({"replicas": 3, "scaling": BOUNDS}, {"replicas": 60}, 6),
        ({"replicas": 3, "scaling": BOUNDS}, {"replicas": 1}, 2),
        ({"replicas": 0, "scaling": BOUNDS}, {"replicas": 5}, 0),
        ({"replicas": 3, "scaling": BOUNDS}, {"replicas": 0}, 3),
        ({"replicas": 3, "scaling": BOUNDS, "replicaScope": "PerSite"}, {"replicas": 5}, 3),
    ],
)
def test_how_many(spec: dict[str, Any], said: dict[str, Any] | None, replicas: int) -> None:
    assert of(said, **spec).replicas == replicas


def test_the_bounds() -> None:
    assert of(scaling=BOUNDS).scaling == Bounds(2, 6)
    assert of(scaling={"minReplicas": 0, "maxReplicas": 6}).scaling == Bounds(1, 6)
    assert of().scaling is None
    assert of(scaling=BOUNDS, replicaScope="PerSite").scaling is None


def test_the_window_comes_back_from_status() -> None:
    said = {"replicas": 5, "lowSince": ago(120), "lowPeak": 3}
    assert of(said, scaling=BOUNDS).scaled == Scaled(5, NOW - 120, 3)
    assert of({"replicas": 5}, scaling=BOUNDS).scaled == Scaled(5)
    assert of(said, scaling=BOUNDS, replicas=0).scaled is None
    assert of(scaling=BOUNDS).scaled is None
