"""A cluster that was refused, or never wrote its plan, takes nothing away that is another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import Cluster, ClusterError, lifecycle, silent


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One whose folders are all below tmp_path; its name is that of a cluster of another cache folder."""
    monkeypatch.setattr(lifecycle, "MACHINE_LOCK", tmp_path / "lock")
    monkeypatch.setattr(lifecycle.host, "restore_settings", lambda path: pytest.fail("another cluster still runs"))
    one = Cluster("one", cache=tmp_path / "cache", say=silent)
    one.run = tmp_path / "run" / "one"
    one.run.mkdir(parents=True)
    (one.run / "another's.sock").touch()
    return one


def test_a_name_that_runs_from_another_cache_is_refused_before_anything_is_made(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="runs from another cache folder"):
        lifecycle.claim(cluster)
    assert not cluster.state.exists()


def test_the_machines_settings_are_noted_outside_the_cache_and_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note in the cache would outlive a reboot, and a second cache's would hold what the first one's cluster set."""
    noted: list[Path] = []
    monkeypatch.setattr(lifecycle, "MACHINE_LOCK", tmp_path / "lock")
    monkeypatch.setattr(lifecycle.host, "remember_settings", noted.append)
    monkeypatch.setattr(lifecycle.host, "restore_settings", noted.append)
    monkeypatch.setattr(lifecycle.network, "route_destinations", list)
    monkeypatch.setattr(lifecycle.network, "make_bridge", lambda plan: None)
    for name in ("remove_bridge", "remove_node_network"):  # a real cluster may own the same index
        monkeypatch.setattr(lifecycle.network, name, lambda plan: None)
    clusters = [Cluster(name, cache=tmp_path / f"cache-{name}", say=silent) for name in ("first", "second")]
    for one in clusters:
        one.run = tmp_path / "run" / "edgeward" / one.name
        lifecycle.claim(one)
    for one in clusters:
        lifecycle.take_down(one)
    assert len(noted) == 3, "two remember, and the last one to end restores"
    assert set(noted) == {tmp_path / "run" / "edgeward-machine-before.json"}


def test_up_leaves_the_other_one_alone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cluster.cluster.host.require_root", lambda: None)
    monkeypatch.setattr("tests.cluster.cluster.ensure_packages", lambda *names: None)
    monkeypatch.setattr("tests.cluster.binaries.Binaries.ensure", lambda *groups: None)
    with pytest.raises(ClusterError, match="runs from another cache folder"):
        cluster.up()
    assert (cluster.run / "another's.sock").exists()


def test_taking_down_a_state_without_a_plan_touches_that_state_only(cluster: Cluster) -> None:
    (cluster.state / "logs").mkdir(parents=True)
    assert cluster.status().state == "broken"
    lifecycle.take_down(cluster)
    assert not cluster.state.exists()
    assert (cluster.run / "another's.sock").exists()


def test_a_state_torn_while_written_is_no_plan_either(cluster: Cluster) -> None:
    cluster.state.mkdir(parents=True)
    (cluster.state / "state.json").write_text('{"index": 0, "nodes": [{"na')
    lifecycle.take_down(cluster)
    assert (cluster.run / "another's.sock").exists()
