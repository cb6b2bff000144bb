"""The built images, looked into: who they run as, what they carry, and what the runtime must not carry."""

from __future__ import annotations

import json
import subprocess
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ImageBuilder, silent
from tests.cluster.images import replacing
from tests.cluster.packages import ensure_packages


@dataclass(frozen=True)
class Built:
    config: dict[str, Any]
    files: dict[str, tarfile.TarInfo]
    packages: frozenset[str]
    unchecked: frozenset[str]


@pytest.fixture(scope="module", params=["operator", "runtime"])
def built(request: pytest.FixtureRequest) -> tuple[str, Built]:
    """(name, what its archive holds). Built anew only when its sources changed."""
    archive = ImageBuilder(say=silent).build(request.param)[request.param]
    files: dict[str, tarfile.TarInfo] = {}
    unchecked = set()
    with tarfile.open(archive) as whole:
        manifest = json.load(whole.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        config = json.load(whole.extractfile(manifest["Config"]))["config"]  # type: ignore[arg-type]
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=whole.extractfile(name)) as layer:
                for entry in layer:
                    path = entry.name.removeprefix("./")
                    files[path] = entry
                    if path.endswith(".pyc") and path.startswith("app/lib/edgeward"):
                        head = layer.extractfile(entry).read(8)  # type: ignore[union-attr]
                        if int.from_bytes(head[4:8], "little") == 0b01:  # PEP 552: by hash, and never checked
                            unchecked.add(path)
    packages = frozenset(p.split("/")[2] for p in files if p.startswith("app/lib/") and p.count("/") >= 3)
    return request.param, Built(config, files, packages, frozenset(unchecked))


def test_it_runs_its_command_as_an_unprivileged_user(built: tuple[str, Built]) -> None:
    name, image = built
    command = {"operator": "edgeward", "runtime": "edgeward-serve"}[name]
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == [command]
    assert image.files[f"app/bin/{command}"].mode & 0o555 == 0o555
    assert image.config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_nothing_in_it_belongs_to_that_user_or_is_writable_by_it(built: tuple[str, Built]) -> None:
    _, image = built
    ours = {path: entry for path, entry in image.files.items() if path.startswith("app/")}
    assert ours
    assert not [p for p, e in ours.items() if e.uid == 65532 or (e.mode & 0o002 and not e.issym())]


def test_it_starts_without_writing_bytecode(built: tuple[str, Built]) -> None:
    """The root file system is read-only, so every module of ours has bytecode that is used as it is."""
    _, image = built
    sources = [p for p in image.files if p.startswith("app/lib/edgeward") and p.endswith(".py")]
    assert sources
    compiled = {p.replace("__pycache__/", "").replace(".cpython-311.pyc", ".py") for p in image.unchecked}
    assert not set(sources) - compiled
    assert "PYTHONDONTWRITEBYTECODE=1" in image.config["Env"]


def test_the_runtime_carries_none_of_the_operators_packages(built: tuple[str, Built]) -> None:
    name, image = built
    operators = {"kopf", "kubernetes", "kubernetes_asyncio", "pydantic", "aiohttp", "requests", "prometheus_api_client"}
    if name == "operator":
        assert {"kopf", "kubernetes", "pydantic", "edgeward", "edgeward_runtime"} <= image.packages
        assert not image.packages & {"onnxruntime", "grpc", "httptools", "uvloop", "PIL"}
        return
    assert {"onnxruntime", "numpy", "edgeward_runtime"} <= image.packages
    assert not image.packages & {*operators, "edgeward"}
    assert "ORT_DISABLE_TELEMETRY=1" in image.config["Env"]


def test_it_carries_no_installer_and_no_tests(built: tuple[str, Built]) -> None:
    _, image = built
    assert not image.packages & {"pip", "setuptools", "pytest", "tests"}
    assert not [p for p in image.files if p.endswith((".whl", ".pyi")) and p.startswith(("app/", "build/"))]
    assert not [p for p in image.files if p.startswith("usr/lib/python3/dist-packages/pip")]


def buildah(*words: str) -> str:
    return subprocess.run(["buildah", *words], capture_output=True, text=True, check=True).stdout.strip()


def test_an_image_that_is_replaced_does_not_stay_in_buildahs_storage(tmp_path: Path) -> None:
    ensure_packages(silent, "buildah")
    tag, other = (f"localhost/test-{uuid.uuid4().hex[:8]}:{word}" for word in ("dev", "kept"))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nADD content /\n")
    ids = []
    for content in ("one", "two", "two", "three"):
        (tmp_path / "content").write_text(f"{tag} {content}")
        with replacing(tag):
            buildah("bud", "-q", "--isolation=chroot", "--layers=false", "-t", tag, str(tmp_path))
        ids.append(buildah("images", "-q", "--no-trunc", tag))
        if content == "one":
            buildah("tag", tag, other)
    try:
        left = set(buildah("images", "-q", "--no-trunc").split()) & set(ids)
        assert left == {ids[0], ids[3]}, "the one that is tagged still, and the one with another name"
    finally:
        buildah("rmi", tag, other)
