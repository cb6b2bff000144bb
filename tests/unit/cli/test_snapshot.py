"""`edgeward plan`: a snapshot replayed; and what is said of files that are none."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from edgeward.cli.main import main
from edgeward.placement import plan
from edgeward.placement.model import Guidance
from edgeward.placement.record import plan_text, read, record, record_text
from tests.unit.placement.strategies import NOW, fleet, job, node

from .objects import SETTINGS, recorded, shops


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.json"
    path.write_text(record_text(recorded()))
    return path


def test_the_replay_is_the_plan_byte_for_byte(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.out == plan_text(plan(shops(), SETTINGS))
    assert "byte for byte the operator's plan (sha256:" in shown.err


def test_packed_and_on_standard_input(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = file.with_suffix(".gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert main(["plan", str(file)]) == main(["plan", str(packed)]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["plan", "-"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == second == third


def test_another_plan_is_told_and_has_an_exit_code(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(file.read_text())
    data["fleet"]["nodes"][0]["allocatable"]["cpu"] += 1000
    file.write_text(json.dumps(data))
    assert main(["plan", str(file)]) == 6
    shown = capsys.readouterr()
    assert json.loads(shown.out)["jobs"]
    assert "NOT the operator's plan" in shown.err


def test_a_snapshot_that_nobody_planned_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lists.json"
    path.write_text(record_text(record(shops(), SETTINGS, made=None, live=False)))
    assert main(["plan", str(path)]) == 0
    assert "nothing to compare with" in capsys.readouterr().err


def test_the_solvers_advice_is_in_it() -> None:
    """It leads the job where a plan without it would not go; the replay goes there too."""
    one = fleet([node("a"), node("b")], [job("one", replicas=1)])
    quick = plan(one, SETTINGS).jobs[0].placements[0].node
    other = "b" if quick == "a" else "a"
    advice = Guidance(made_at=NOW - 1, targets={"test/one": (("shop", other, 1),)})
    made = plan(one, SETTINGS, guidance=advice)
    assert made.jobs[0].placements[0].node == other
    written = record_text(record(one, SETTINGS, made=made))
    assert plan_text(read(written).replay()) == plan_text(made)
    assert record_text(read(written)) == written


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("{}", "no snapshot of Edgeward"),
        ("[1]", "no snapshot of Edgeward"),
        ('{"format":2,"edgeward":"9.9.9","fleet":{}}', "format 2, written by edgeward 9.9.9; this is edgeward"),
        ('{"format":1,"edgeward":"0.1.0","fleet":{}}', "snapshot: field live is missing"),
    ],
)
def test_what_is_no_snapshot_is_told_with_a_remedy(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    for command in (["plan", str(path)], ["what-if", "--snapshot", str(path)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert said in error and "edgeward snapshot -o FILE" in error


def test_unknown_fields_are_refused_by_their_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(file.read_text())
    data["fleet"]["nodes"][2]["colour"] = "red"
    file.write_text(json.dumps(data))
    assert main(["plan", str(file)]) == 2
    assert "snapshot.fleet.nodes[2]: unknown field colour; replay it with the version" in capsys.readouterr().err


def test_bytes_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"\x1f\x8bbroken", b"\xff\xfe\xff"):
        path = tmp_path / "x.json"
        path.write_bytes(content)
        assert main(["plan", str(path)]) == 2
        assert str(path) in capsys.readouterr().err
