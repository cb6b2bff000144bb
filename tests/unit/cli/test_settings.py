"""The configuration file: every key checked, unknown ones refused by their path, defaults those of the design."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.agent.settings import AgentSettings
from edgeward.cli.main import main
from edgeward.cli.settings import OperatorSettings, SettingsError, load
from edgeward.cluster.lease import LeaseSettings
from edgeward.fleet.settings import BuildSettings
from edgeward.hub.hub import HubSettings
from edgeward.metrics.profiles import KUBELET
from edgeward.placement.settings import PlanSettings, ScalingSettings, Weights


def loaded(tmp_path: Path, content: Any) -> OperatorSettings:
    path = tmp_path / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load(str(path))


def test_defaults_are_the_designs() -> None:
    settings = load(None)
    hub, timing = settings.hub(), settings.timing
    assert (hub.plan.gain, hub.plan.evaluations, hub.plan.dwell) == (0.15, 3, 600)
    assert (hub.build.refused_after, hub.plan.gone_after, hub.plan.expiry, hub.coalesce) == (60, 600, 180, 1)
    assert timing.lease_renew_deadline < timing.lease_duration <= 12, "another writes within 15 s"
    assert timing.watch_dead_after == 60 and timing.resync < 60
    assert settings.metrics.profile_in_use() == KUBELET


def test_the_parts_get_what_their_own_defaults_are() -> None:
    settings = load(None)
    assert settings.hub() == HubSettings(build=BuildSettings(), plan=PlanSettings())
    assert settings.agent() == AgentSettings()
    assert settings.lease() == LeaseSettings()


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"tick": 5}, "tick"),
        ({"timing": {"tik": 5}}, "timing.tik"),
        ({"timing": {"tick": 0}}, "timing.tick"),
        ({"timing": {"tick": "soon"}}, "timing.tick"),
        ({"timing": {"dwell": -1}}, "timing.dwell"),
        ({"metrics": {"profile": "Guess"}}, "metrics.profile"),
        ({"metrics": {"window": "1 minute"}}, "metrics.window"),
        ({"metrics": {"queries": {"cpu": {}}}}, "metrics.queries.cpu.value"),
        ({"placement": {"gain": 2}}, "placement.gain"),
        ({"placement": {"gain": float("nan")}}, "placement.gain"),
        ({"placement": {"weights": {"speed": 1}}}, "placement.weights"),
        ({"placement": {"weights": {"load": -1}}}, "placement.weights.load"),
        ({"placement": {"weights": {"load": float("nan")}}}, "placement.weights.load"),
        ({"placement": {"weights": {"load": float("inf")}}}, "placement.weights.load"),
        ({"scaling": {"utilization": 0}}, "scaling.utilization"),
        ({"scaling": {"utilization": 1.2}}, "scaling.utilization"),
        ({"scaling": {"window": float("inf")}}, "scaling.window"),
        ({"scaling": {"staleAfter": 20}}, "scaling.staleAfter"),
        ({"metrics": {"trafficInterval": 45}}, "scaling.staleAfter"),
        ({"timing": {"leaseRenewDeadline": 10}}, "timing.leaseRenewDeadline"),
        ({"timing": {"leaseRetry": 6}}, "timing.leaseRetry"),
        ({"port": 70000}, "port"),
        ("- a\n- b\n", "file"),
        ("a: [", "config.yaml"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(tmp_path: Path, content: Any, path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, content)
    assert path in str(caught.value)


def test_weights_that_leave_nothing_to_score_are_refused(tmp_path: Path) -> None:
    nothing = dict.fromkeys(Weights.__slots__, 0)
    with pytest.raises(SettingsError, match=r"placement\.weights"):
        loaded(tmp_path, {"placement": {"weights": nothing}})


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, {"port": 0, "timing": {"tick": 0}})
    assert "port" in str(caught.value) and "timing.tick" in str(caught.value)


def test_a_file_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing"):
        load(str(tmp_path / "missing"))
    assert loaded(tmp_path, "") == OperatorSettings()


def test_what_is_set_arrives(tmp_path: Path) -> None:
    own = {"value": "sum(x[WINDOW])", "measuredAt": "timestamp(x)"}
    settings = loaded(
        tmp_path,
        {
            "namespace": "edge",
            "metrics": {
                "scrapeInterval": 30,
                "expiry": 90,
                "queries": {"nodeLabel": "host", "cpu": own, "memory": own},
            },
            "runtime": {"image": "r", "pullPolicy": "Always", "architectures": ["arm64"]},
            "store": {"storageClassName": "", "size": "1Gi"},
            "timing": {"dwell": 1, "refusedAfter": 2, "poolPatience": 9, "goneAfter": 3, "evaluationInterval": 4},
            "placement": {"weights": {"load": 7}, "gain": 0.3, "evaluations": 5},
        },
    )
    hub, agent, profile = settings.hub(), settings.agent(), settings.metrics.profile_in_use()
    assert (hub.namespace, agent.namespace) == ("edge", "edge")
    assert (hub.build.scrape_interval, hub.build.refused_after, hub.build.architectures) == (
        30,
        2,
        frozenset({"arm64"}),
    )
    assert hub.build.pool_patience == 9
    plan = hub.plan
    assert (plan.dwell, plan.gone_after, plan.evaluation_interval, plan.expiry) == (1, 3, 4, 90)
    assert (plan.gain, plan.evaluations, plan.weights.load, plan.weights.stay) == (0.3, 5, 7, 0.5)
    assert (agent.runtime_image, agent.image_pull_policy, agent.store_class, agent.store_size) == (
        "r",
        "Always",
        "",
        "1Gi",
    )
    assert profile is not None and (profile.node_label, profile.cpu.value) == ("host", "sum(x[WINDOW])")


def test_the_command_checks_a_file_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("timing: {tik: 1}\n")
    assert main(["operator", "--config", str(bad), "--check-config"]) == 2
    assert "timing.tik" in capsys.readouterr().err
    assert main(["operator", "--check-config"]) == 0
    assert '"leaseDuration": 10.0' in capsys.readouterr().out


def test_the_planner_sizes_as_it_is_told(tmp_path: Path) -> None:
    told = {"utilization": 0.5, "tolerance": 0.2, "window": 60, "staleAfter": 40}
    assert loaded(tmp_path, {"scaling": told}).hub().plan.scaling == ScalingSettings(0.5, 0.2, 60, 40)
