"""What a run of the demo notes for the bench, also when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Binaries, Cluster, silent
from tests.demo import run
from tests.demo.kube import StoryError
from tests.demo.rollout import Tally


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One that is up already, with everything built: nothing of the run is real but its bookkeeping."""
    monkeypatch.setattr(run, "RECORD", tmp_path / "build" / "demo.json")
    monkeypatch.setattr(run, "prepare", lambda cache, say: None)
    monkeypatch.setattr(run, "embedded_stage", lambda *given: None)
    monkeypatch.setattr(run, "keep", lambda *given: tmp_path)
    monkeypatch.setattr(Binaries, "ensure", lambda *given: None)
    monkeypatch.setattr(Cluster, "up", lambda self: False)
    run.record_failed(0)
    return Cluster("one", cache=tmp_path / "cache", say=silent)


def noted(name: str = "demo_failed_requests") -> Any:
    return json.loads(run.RECORD.read_text()).get(name)


@pytest.mark.parametrize("failed", [3, 0, None])
def test_a_run_that_fails_notes_its_own_failed_requests(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, failed: int | None
) -> None:
    def tell(stage: None, *, seed: int, tally: Tally) -> None:
        tally.failed = failed
        raise StoryError("the rollout was not without a trace")

    monkeypatch.setattr(run, "tell", tell)
    with pytest.raises(StoryError):
        run.embedded(cluster, silent, seed=1)
    assert noted() == failed


def test_a_run_that_ends_before_the_story_notes_nothing_of_an_earlier_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "up", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.embedded(cluster, silent, seed=1)
    assert noted() is None


def test_a_run_that_comes_out_notes_what_it_counted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(stage: None, *, seed: int, tally: Tally) -> None:
        tally.failed = 0

    run.record_failed(7)
    monkeypatch.setattr(run, "tell", tell)
    run.embedded(cluster, silent, seed=1)
    assert noted() == 0


@pytest.mark.parametrize(
    ("compiled", "built", "started", "kind"),
    [
        (False, False, True, "demo_cold_s"),
        (True, False, True, None),
        (True, True, True, "demo_warm_s"),
        (False, True, True, "demo_warm_s"),
        (False, False, False, None),
    ],
)
def test_a_run_is_cold_only_with_an_empty_go_cache_too(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
    built: bool,
    started: bool,
    kind: str | None,
) -> None:
    entry, program = tmp_path / "go" / "0a" / "0abc-d", cluster.cache / "bin" / "kubernetes-1" / "kubelet"
    for path in (entry, program):
        path.parent.mkdir(parents=True)
    if compiled:
        entry.touch()
    if built:
        program.touch()
    monkeypatch.setenv("GOCACHE", str(tmp_path / "go"))
    monkeypatch.setattr(Binaries, "ensure", lambda *given: program.touch())
    monkeypatch.setattr(Cluster, "up", lambda self: started)
    monkeypatch.setattr(Cluster, "down", lambda self: None)
    monkeypatch.setattr(run, "tell", lambda stage, *, seed, tally: None)
    run.embedded(cluster, silent, seed=1)
    kinds = [name for name in ("demo_cold_s", "demo_warm_s") if noted(name) is not None]
    assert kinds == ([kind] if kind else [])
