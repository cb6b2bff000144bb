"""An hour of a town whose runtimes are measured: what they say is told once, and noise writes and moves nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from edgeward.fleet.model import Fleet
from edgeward.fleet.traffic import HOUR, LATENCY_BOUNDS, NO_LATENCIES, Measured, with_traffic
from edgeward.placement import PlanSettings
from edgeward.placement.settings import LearningSettings
from tests.unit.fleet.objects import DIGEST, job, node
from tests.unit.hub.town import Town


@dataclass
class Measuring(Town):
    measured: list[Measured] = field(default_factory=list)

    def fleet(self) -> Fleet:
        seen = super().fleet()
        return replace(seen, jobs=with_traffic(seen.jobs, self.measured))


def town(**changes: object) -> Measuring:
    nodes = {name: node(name, edgeward_dev__site=f"at-{name}") for name in ("one", "two", "three")}
    jobs = {
        name: job(
            name,
            resources={"requests": {"cpu": "500m", "memory": "512Mi"}},
            slo={"latency": "100ms"},
            replicas=2,
        )
        for name in ("reader", "other")
    }
    made = Measuring(nodes, jobs, **changes)  # type: ignore[arg-type]
    made.run(60)
    return made


def measure(made: Measuring, *, noise: random.Random, slow: float = 1.0) -> None:
    """Everything that a scrape says differs a little from the one before."""
    made.measured = []
    for raw in made.assignments.values():
        late = noise.uniform(45, 55)
        latency = [0.0] * len(NO_LATENCIES)
        latency[LATENCY_BOUNDS.index(0.05)], latency[LATENCY_BOUNDS.index(0.25)] = 1000 - late, late
        made.measured.append(
            Measured(
                job="shop/" + raw["spec"]["job"]["name"],
                site=raw["spec"]["site"],
                digest=DIGEST,
                at=made.now - noise.uniform(0, 15),
                window=60.0,
                arrivals=noise.uniform(1, 9),
                replicas=1,
                service_seconds=0.02 * slow * noise.uniform(0.9, 1.1),
                samples=noise.randrange(500),
                hour_latency=tuple(latency),
                hour_window=HOUR + noise.uniform(0, 300),
                hour_samples=noise.randrange(900, 1100),
                hour_service_seconds=0.02 * slow * noise.uniform(0.97, 1.03),
                cpu_p95=0.1 * noise.uniform(0.95, 1.05),
                memory_p95=100e6 * noise.uniform(0.95, 1.05),
            )
        )


def hours(made: Measuring, count: float, noise: random.Random, **changes: float) -> None:
    for _ in range(int(count * 60)):
        measure(made, noise=noise, **changes)
        made.run(60, every=60)


def test_noise_is_told_once_and_confirmed_once_an_hour() -> None:
    noise = random.Random(4)
    made = town()
    hours(made, 1 / 30, noise)
    told = made.jobs["reader"]["status"]["learned"]
    assert told["satisfaction"] in range(940, 961)
    assert told["sites"] and told["serviceSeconds"] and told["rightSizing"]["cpu"] == "120m"
    before, places = made.writes, {name: made.where(name) for name in made.jobs}
    hours(made, 0.9, noise)
    assert made.writes == before
    hours(made, 3, noise)
    assert made.writes - before <= 3 * len(made.jobs)
    assert {name: made.where(name) for name in made.jobs} == places
    assert made.jobs["reader"]["spec"]["resources"]["requests"] == {"cpu": "500m", "memory": "512Mi"}
    assert len(made.told("reader", "ResizeProposed")) == 1


def test_a_leader_that_has_measured_nothing_says_and_places_as_the_one_before() -> None:
    noise = random.Random(5)
    made = town()
    hours(made, 0.1, noise)
    before, told = made.writes, made.jobs["reader"]["status"]["learned"]
    made.measured = []
    made.run(600, every=15)
    assert (made.writes, made.jobs["reader"]["status"]["learned"]) == (before, told)


def test_what_really_changed_is_told() -> None:
    noise = random.Random(6)
    made = town()
    hours(made, 0.1, noise)
    before = made.jobs["reader"]["status"]["learned"]["serviceSeconds"]
    hours(made, 0.1, noise, slow=3.0)
    after = made.jobs["reader"]["status"]["learned"]["serviceSeconds"]
    assert float(after) > 2.5 * float(before)


def test_switched_off_it_tells_nothing() -> None:
    made = town(settings=PlanSettings(learning=LearningSettings(enabled=False)))
    hours(made, 0.1, random.Random(7))
    assert "learned" not in made.jobs["reader"]["status"]
