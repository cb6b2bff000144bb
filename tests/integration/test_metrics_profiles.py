"""The shipped queries against the real things: Debian's node exporter behind a real Prometheus."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeward.fleet.model import Live
from edgeward.metrics.profiles import KUBELET, NODE_EXPORTER
from edgeward.metrics.source import PrometheusSource, Reading
from tests.cluster.controlplane import free_port

from .operator_harness import eventually


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scrapes one node exporter every second and names the node as a user would: by relabelling."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    exporter, server = free_port(), free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "- job_name: node\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{exporter}'], labels: {{node: here}}}}]\n"
    )
    log = (folder / "log").open("w")
    started = [
        subprocess.Popen(
            ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{exporter}"], stdout=log, stderr=log
        ),
        subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{server}",
            ],
            stdout=log,
            stderr=log,
        ),
    ]
    yield f"http://127.0.0.1:{server}"
    for process in started:
        process.kill()
        process.wait()
    log.close()


def read(source: PrometheusSource) -> Reading:
    return asyncio.run(source.read())


def test_the_node_exporter_profile_reads_a_real_node_exporter(prometheus: str) -> None:
    source = PrometheusSource(url=prometheus, profile=NODE_EXPORTER, window="10s")

    def both() -> Live | None:
        live = read(source).live.get("here")
        return live if live and live.cpu and live.memory else None  # a rate needs two scrapes

    live = eventually(both, seconds=30, what="figures of the node")
    assert live is not None
    assert live.cpu is not None
    assert live.memory is not None
    assert 0 <= live.cpu.value <= 256
    assert 2**26 < live.memory.value < 2**42
    for sample in (live.cpu, live.memory):
        assert 0 <= time.time() - sample.at < 10, "the sample carries the time of the scrape, not that of the query"
    source.close()


def test_a_profile_without_series_says_so_instead_of_zero(prometheus: str) -> None:
    source = PrometheusSource(url=prometheus, profile=KUBELET)
    reading = eventually(lambda: read(source), seconds=30)
    assert reading.live == {}
    assert "no series for profile Kubelet" in reading.problem or "cannot be reached" in reading.problem
    source.close()
