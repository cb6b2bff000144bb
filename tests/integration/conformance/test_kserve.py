"""KServe's own client, unmodified, in an environment of its own: it brings a whole server and its pins along. The
environment is made from hash-pinned requirements, once, outside the tree."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.binaries import exclusive
from tests.cluster.paths import REPOSITORY, cache_root
from tests.integration.conformance import kserve_client
from tests.integration.conformance.target import DATATYPES, Target

REQUIREMENTS = REPOSITORY / "requirements" / "conformance.txt"


def environment() -> Path:
    """The Python of an environment with KServe's package."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache_root() / "conformance" / key
    with exclusive(cache_root() / "conformance" / ".lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder.parent / key, ignore_errors=True)
            uv = str(Path(sys.executable).with_name("uv"))
            python = str(folder / "bin" / "python")
            install = [uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", str(REQUIREMENTS)]
            for command in ([uv, "venv", "-q", "--python", sys.executable, str(folder)], install):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr[-2000:]
            (folder / "complete").touch()
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def results(served: Target) -> Iterator[dict[str, str | None]]:
    target = {"rest": served.rest, "grpc": served.grpc, "datatypes": {name: DATATYPES[name][1] for name in DATATYPES}}
    done = subprocess.run(
        [str(environment()), kserve_client.__file__, json.dumps(target)],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    yield json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", kserve_client.CASES)
def test_kserves_client(results, case):
    assert results[case] is None, results[case]
