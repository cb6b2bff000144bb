"""A real cluster of the tests' own, started once. It runs beside a demo that is up: other name, other addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Binaries, Cluster, Progress
from tests.cluster.binaries import exclusive
from tests.cluster.paths import clusters_root
from tests.demo import run
from tests.demo.models import Models, prepare
from tests.demo.stage import Stage, install

NAME = "edgeward-test"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three real nodes: cloud-1, edge-1 and edge-2. Gone at the end, whatever happened."""
    say = Progress()
    Binaries(say=say).ensure("control-plane", "node", "helm", "metrics-server")
    found = Cluster(NAME, metrics_server=True, say=say)
    with exclusive(clusters_root(found.cache) / f".{NAME}.session"):  # another run of these tests waits for its turn
        found.down()
        try:
            found.up()
            yield found
        finally:
            found.down()


@pytest.fixture(scope="module", autouse=True)
def empty_volumes(cluster: Cluster) -> None:
    """A node has a few local volumes only, and what a module's namespace held is offered again by nobody else."""
    cluster.recycle_volumes()


@pytest.fixture(scope="session")
def models(cluster: Cluster) -> Models:
    return prepare(cluster.cache, say=cluster.say)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, cluster: Cluster, models: Models) -> Iterator[Stage]:
    """Edgeward installed by its chart, with the demo's settings. What went on is kept in build/ when a test fails."""
    failed = request.session.testsfailed
    found = run.embedded_stage(cluster, models, cluster.say)
    try:
        install(found)
        yield found
    finally:
        if request.session.testsfailed > failed:
            cluster.say(f"what was going on is kept in {run.keep(cluster, found)}")
