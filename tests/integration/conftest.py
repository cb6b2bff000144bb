"""One real API server (with its etcd) for all integration tests of a run; each test brings its own namespace.

`world` is a second one, with controllers, scheduler, simulated nodes and Prometheus, for the tests of the operator."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Binaries, ControlPlane, silent, temporary_directory
from tests.integration.operator_harness import AUDIT_POLICY, Exporter, Operator, World, start_world


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server without controllers, scheduler or nodes, with the CRDs applied as a user would: kubectl apply."""
    binaries = Binaries(say=silent)
    binaries.ensure("control-plane")
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), binaries=binaries, name="integration") as plane:
        crds = Path(__file__).parents[2] / "crds"
        plane.kubectl("apply", "-f", str(crds))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(crds))
        yield plane


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Everything that the operator meets in a cluster but real kubelets: see operator_harness."""
    binaries = Binaries(say=silent)
    for group in ("control-plane", "kwok"):
        binaries.ensure(group)
    directory = temporary_directory()
    policy, audit = directory / "audit-policy.json", directory / "audit.log"
    policy.write_text(json.dumps(AUDIT_POLICY))
    audit.touch()
    plane = ControlPlane(
        directory,
        binaries=binaries,
        name="operator",
        controllers=True,
        scheduler=True,
        extra_arguments=[f"--audit-policy-file={policy}", f"--audit-log-path={audit}", "--audit-log-mode=blocking"],
    )
    exporter = Exporter()
    try:
        with plane:
            try:
                yield start_world(plane, exporter, audit)
            finally:
                plane.supervisor.stop_all()
    finally:
        exporter.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def namespace(world: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own with the model `reader`; everything in it goes when the test ends."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[-40:].strip("-")
    world.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    world.release(name)
    yield name
    world.clear(name)


@pytest.fixture
def replicas(world: World) -> Iterator[World]:
    """For tests that start operators themselves: none runs before, none is left after."""
    world.end_operators()
    yield world
    world.end_operators()


@pytest.fixture(scope="module")
def operator(world: World) -> Iterator[Operator]:
    """One operator with short time limits for a whole module."""
    world.end_operators()
    yield world.operator("one").start().await_leading()
    world.end_operators()
