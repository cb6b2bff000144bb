"""What goes into an image, what its cache key covers, and that the runtime's lock file stays apart from the operator's."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.cluster.images import IMAGES, sources, wheel_platforms
from tests.cluster.paths import REPOSITORY
from tests.cluster.pause import PAUSE_IMAGE, pause_archive


def locked(path: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", (REPOSITORY / path).read_text(), re.MULTILINE))


def test_the_runtime_needs_nothing_of_the_operators() -> None:
    runtime, operator = locked(IMAGES["runtime"].requirements), locked(IMAGES["operator"].requirements)
    assert {"onnxruntime", "numpy"} <= runtime
    assert {"kopf", "kubernetes", "pydantic"} <= operator
    # What both need for themselves: grpcio here, and kubernetes and pydantic there, depend on typing-extensions. The last
    # are what the runtime's registry client needs, which the operator has too (docs/adr/0011).
    client = {"orjson", "cryptography", "cffi", "pycparser"}
    assert runtime & operator <= {"numpy", "prometheus-client", "typing-extensions", *client}


@pytest.mark.parametrize("image", IMAGES.values(), ids=lambda image: image.name)
def test_every_locked_requirement_has_hashes(image: object) -> None:
    text = (REPOSITORY / image.requirements).read_text()  # type: ignore[attr-defined]
    blocks = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_sources_of_an_image_leave_out_bytecode_and_what_it_does_not_copy(tmp_path: Path) -> None:
    image = IMAGES["runtime"]
    for name in (
        image.dockerfile,
        image.requirements,
        f"{image.package}/cli.py",
        f"{image.package}/__pycache__/cli.cpython-311.pyc",
        "operator/edgeward/__init__.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert set(sources(image, tmp_path)) == {image.dockerfile, image.requirements, f"{image.package}/cli.py"}


@pytest.mark.parametrize("image", IMAGES.values(), ids=lambda image: image.name)
def test_the_dockerfile_runs_as_nobody_in_particular_and_names_its_base(image: object) -> None:
    lines = (REPOSITORY / image.dockerfile).read_text().splitlines()  # type: ignore[attr-defined]
    assert "USER 65532:65532" in lines
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    assert any(line.startswith("ARG BASE=") for line in lines)
    assert any("--require-hashes" in line for line in lines)


def test_wheels_are_taken_for_the_bases_glibc_and_older_only() -> None:
    tags = wheel_platforms("x86_64", glibc=28)
    assert tags[0] == "manylinux_2_28_x86_64"
    assert "manylinux_2_29_x86_64" not in tags
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64"} <= set(tags)
    assert "manylinux1_aarch64" not in wheel_platforms("aarch64")


def test_the_sandbox_image_holds_the_one_program(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF...")
    archive = pause_archive(program, tmp_path / "pause.tar")
    with tarfile.open(archive) as whole:
        manifest = json.load(whole.extractfile("manifest.json"))  # type: ignore[arg-type]
        layer = whole.extractfile(manifest[0]["Layers"][0])
        with tarfile.open(fileobj=layer) as files:
            (entry,) = files.getmembers()
            assert files.extractfile(entry).read() == b"\x7fELF..."  # type: ignore[union-attr]
    assert manifest[0]["RepoTags"] == [PAUSE_IMAGE]
    assert (entry.name, entry.mode) == ("pause", 0o755)
    assert {p.name for p in tmp_path.iterdir()} == {"pause", "pause.tar"}
