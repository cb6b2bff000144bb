"""One real API server (with its etcd) for all integration tests of a run; each test brings its own namespace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Binaries, ControlPlane, silent


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
