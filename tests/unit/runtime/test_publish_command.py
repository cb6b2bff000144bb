"""Arguments and progress; what the command does is in the integration tests."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward_runtime import cli
from edgeward_runtime.publish.command import Progress
from tests.unit.runtime.onnx_models import constant_times
from tests.unit.runtime.signing import pair

DOCS = Path(__file__).parents[3] / "docs" / "publish.md"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(constant_times(2))
    return path


def wrong(capsys: Any, model: Path, *arguments: str) -> str:
    usual = ["publish", str(model), "--name", "m", "--version", "1", "--to", "oci://127.0.0.1:1/models"]
    with pytest.raises(SystemExit) as caught:
        cli.model([*usual, *arguments])
    assert caught.value.code == 2
    said: str = capsys.readouterr().err
    return said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "Sign"], "--name 'Sign' is no part"),
        (["--version", "1+1"], "--version '1+1' has a '+'"),
        (["--to", "registry/models"], "try --to oci://registry/models"),
        (["--variant", "m.onnx"], "must be MATCH:FILE"),
        (["--variant", "tier=edge:gone.onnx"], "--variant: gone.onnx is not there"),
        (["--labels", "gone.txt"], "gone.txt is not there"),
        (["--golden", "gone.npz"], "gone.npz is not there"),
        (["--credentials", "config.json"], "--credentials config.json is not a folder"),
        (["--no-golden", "--golden", "gone.npz"], "--golden and --no-golden exclude each other"),
        (["--atol", "-1"], "--atol -1.0 must be a number of 0 or more"),
        (["--rtol", "nan"], "--rtol nan must be a number of 0 or more"),
    ],
)
def test_arguments_that_make_no_sense(capsys: Any, model: Path, arguments: list[str], says: str) -> None:
    assert says in wrong(capsys, model, *arguments)


def test_two_variants_for_the_same_nodes(capsys: Any, model: Path) -> None:
    variants = ["--variant", f"arch=arm64,tier=edge:{model}", "--variant", f"tier=edge,arch=arm64:{model}"]
    assert "for the same nodes" in wrong(capsys, model, *variants)


def test_a_key_that_is_none_is_told_before_any_work(capsys: Any, model: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    for content, says in (
        (b"no key", "no private key in PEM"),
        (pair().public.encode(), "no private key in PEM"),
        (pair("p384").private, "neither an Ed25519 nor an ECDSA P-256 key"),
    ):
        key.write_bytes(content)
        assert says in wrong(capsys, model, "--key", str(key))


def test_a_registry_that_is_not_there_is_told_before_any_work_with_what_to_do(capsys: Any, model: Path) -> None:
    usual = ["publish", str(model), "--name", "m", "--version", "1", "--to", "oci://127.0.0.1:1/models", "--json"]
    assert cli.model(usual) == 1
    printed = capsys.readouterr()
    assert "not published: Unreachable" in printed.err and "--plain-http" in printed.err
    assert "loading" not in printed.err
    assert yaml.safe_load(printed.out)["error"]["reason"] == "Unreachable"


def test_progress_has_a_line_for_what_begins_and_then_one_every_two_seconds() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = Progress(stream, clock=lambda: now)
    progress.says("reading")
    for step in range(9):
        now = step * 0.5
        progress.bytes("read", step * 2**20, 8 * 2**20)
    progress.bytes("read", 0, 0)
    assert stream.getvalue().splitlines() == [
        "reading",
        "  4.0 MiB of 8.0 MiB read (50%)",
        "  8.0 MiB of 8.0 MiB read (100%)",
    ]


def test_the_job_on_the_page_runs_a_command_that_there_is(capsys: Any, model: Path) -> None:
    block = re.search(r"^    apiVersion: batch/v1\n(?:    .*\n)+", DOCS.read_text(), re.MULTILINE)
    assert block is not None
    (container,) = yaml.safe_load(block[0])["spec"]["template"]["spec"]["containers"]
    program, *arguments = [*container["command"], *container["args"]]
    assert program == "edgeward-model" and all(isinstance(one, str) for one in arguments)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/models", "/keys", "/tmp", container["env"][0]["value"]} <= mounted
    arguments[1] = str(model)
    # All of it is understood: what it misses is the key, which is not on this machine.
    with pytest.raises(SystemExit):
        cli.model(arguments)
    assert "/keys/release.key is not there" in capsys.readouterr().err
