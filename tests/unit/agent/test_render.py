"""What an Assignment wants in its cluster: golden objects, and what must not change a pod."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from edgeward.agent.render import Child, children, config_name, placement_name, store_name
from edgeward.agent.settings import AgentSettings
from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.fleet.names import derived_name
from tests.unit.fleet.objects import OTHER, Raw, assignment

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
CONFIG_SCHEMA = json.loads((ROOT / "edge-runtime/contract/config.schema.json").read_text())
NODES = ({"name": "n1", "replicas": 1}, {"name": "n2", "replicas": 1, "leaving": 1})


def told(
    *nodes: Raw, tier: str = "edge", revision: int = 4, site: str = "edge", job: str = "signs", **spec: Any
) -> Assignment:
    raw = assignment(*(nodes or NODES), site=site, job=job)
    raw["metadata"]["name"] = derived_name(namespace="shop", name=job, site=site)
    raw["metadata"]["labels"] |= {"edgeward.dev/tier": tier} if tier else {}
    raw["metadata"]["labels"]["argocd.argoproj.io/instance"] = "shop"
    effective = {
        "priority": {"importance": 4, "urgency": 5, "satisfaction": 3},
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "placement": {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
    }
    raw["spec"] = {**raw["spec"], "revision": revision, "effective": effective, **spec}
    return parse(Assignment, raw)


def render(of: Assignment, **more: Any) -> list[Child]:
    known: dict[str, Any] = {"tiers": {}, "settings": AgentSettings(), "persistent": True, "config": None, "now": 0.0}
    return children(of, **{**known, **more})


def kinds(found: list[Child], kind: str) -> list[Raw]:
    return [child.body for child in found if child.resource.kind == kind]


def pod_of(of: Assignment, **more: Any) -> Raw:
    found: Raw = kinds(render(of, **more), "Deployment")[0]["spec"]["template"]
    return found


@pytest.mark.parametrize(
    ("name", "more"),
    [("two-nodes", {"persistent": True, "site_service": True}), ("without-a-store-class", {"persistent": False})],
)
def test_golden(name: str, more: dict[str, Any]) -> None:
    golden(name, told(), more)


POOL = {
    "name": "edge/*",
    "replicas": 2,
    "leaving": 1,
    "pool": {"labels": {"edgeward.dev/site": "edge", "disk": "ssd"}, "architectures": ["amd64", "arm64"]},
}


def test_golden_of_an_elastic_site() -> None:
    golden("elastic-site", told(POOL), {"persistent": True})


def golden(name: str, of: Assignment, more: dict[str, Any]) -> None:
    """Set EDGEWARD_GOLDEN=write to write the files anew, and read the difference before it is committed."""
    text = yaml.safe_dump_all(
        [
            {"apiVersion": child.resource.api_version, "kind": child.resource.kind, **child.body}
            for child in render(of, **more)
        ],
        sort_keys=False,
        width=120,
    )
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("EDGEWARD_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert list(yaml.safe_load_all(path.read_text())) == list(yaml.safe_load_all(text))


# The pod -------------------------------------------------------------------------------------------------------------


SIDE = {"spec": {"containers": [{"name": "side", "image": "x"}], "initContainers": [{"name": "init", "image": "x"}]}}


@pytest.mark.parametrize("template", [{}, SIDE])
def test_the_pod_passes_restricted_field_by_field(template: Raw) -> None:
    """Source: the Pod Security Standards of Kubernetes, profile `restricted`, control by control."""
    spec = pod_of(told(podTemplate=template))["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "seLinuxOptions", "windowsOptions"} & spec["securityContext"].keys()
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
    assert all(volume.keys() - {"name"} <= allowed for volume in spec["volumes"])
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "procMount"} & context.keys()
        assert all("hostPort" not in port for port in container.get("ports", []))
    runtime = next(item for item in spec["containers"] if item["name"] == "runtime")
    assert runtime["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["automountServiceAccountToken"] is False and "serviceAccountName" not in spec


def test_the_node_is_pinned_by_its_name_and_never_by_nodename() -> None:
    spec = pod_of(told())["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
    assert "nodeName" not in spec


def test_a_pool_is_the_nodes_with_its_labels_whichever_they_are() -> None:
    found = render(told(POOL))
    (deployment,) = kinds(found, "Deployment")
    assert deployment["spec"]["replicas"] == 3 and not kinds(found, "PersistentVolumeClaim")
    pod = deployment["spec"]["template"]
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {"key": "disk", "operator": "In", "values": ["ssd"]},
                {"key": "edgeward.dev/site", "operator": "In", "values": ["edge"]},
                {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]},
            ]
        }
    ]
    assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"
    assert {"name": "store", "emptyDir": {}} in pod["spec"]["volumes"]
    assert pod["spec"]["tolerations"] == OWN, "the cluster replaces pods of a node that is lost"
    assert len(kinds(found, "PodDisruptionBudget")) == 1


def test_a_pool_that_nothing_describes_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing says which nodes belong to it"):
        render(told({"name": "edge/*", "replicas": 1}))


LIMITLESS = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute"}
    for state in ("not-ready", "unreachable")
]
OWN = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("tier", "label", "limitless"),
    [
        ("edge", "", True),
        ("fog", "cloud", True),
        ("cloud", "edge", False),
        # An Assignment from before it carried the tier: the node's label, and pools without one are edge.
        ("", "edge", True),
        ("", "fog", True),
        ("", "cloud", False),
        ("", "", True),
    ],
)
def test_pods_at_edge_and_fog_outlive_a_cut(tier: str, label: str, limitless: bool) -> None:
    tolerations = pod_of(told(tier=tier), tiers={"n1": label})["spec"]["tolerations"]
    assert tolerations == OWN + (LIMITLESS if limitless else [])


def test_a_node_that_vanishes_for_a_moment_changes_no_pod() -> None:
    assert pod_of(told(), tiers={}) == pod_of(told(), tiers={"n1": "edge"})


def test_a_store_that_was_made_is_kept_when_the_class_comes_or_goes() -> None:
    for made in (True, False):
        before = render(told(), persistent=made)
        there = kinds(before, "Deployment")
        after = render(told(), persistent=not made, deployments=[*there, None])
        assert kinds(after, "Deployment") == there
        assert len(kinds(after, "PersistentVolumeClaim")) == (2 if made else 0)
    mixed = render(told(), persistent=True, deployments=kinds(render(told(NODES[0]), persistent=False), "Deployment"))
    assert [item["metadata"]["annotations"]["edgeward.dev/node"] for item in kinds(mixed, "PersistentVolumeClaim")] == [
        "n2"
    ]


def test_the_podtemplate_is_laid_over_by_name() -> None:
    over = {
        "metadata": {"labels": {"team": "a"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [{"name": "runtime", "env": [{"name": "A", "value": "b"}]}, {"name": "side", "image": "x"}],
        },
    }
    pod = pod_of(told(podTemplate=over))
    assert pod["metadata"]["labels"]["team"] == "a" and "edgeward.dev/job" in pod["metadata"]["labels"]
    runtime, side = pod["spec"]["containers"]
    known = ["EDGEWARD_CONFIG_DIR", "EDGEWARD_STORE", "EDGEWARD_PORT", "EDGEWARD_STORE_BYTES"]
    assert [item["name"] for item in runtime["env"]] == [*known, "A"]
    assert runtime["image"] and side["image"] == "x" and pod["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_labels_of_the_users_objects_are_not_copied() -> None:
    assert "argocd" not in json.dumps([child.body for child in render(told(), site_service=True)])


def test_selectors_match_their_pods() -> None:
    found = render(told(), site_service=True)
    labels = [item["spec"]["template"]["metadata"]["labels"] for item in kinds(found, "Deployment")]
    for item, own in zip(kinds(found, "Deployment"), labels, strict=True):
        assert item["spec"]["selector"]["matchLabels"].items() <= own.items()
    for item in [*kinds(found, "Service")]:
        assert all(item["spec"]["selector"].items() <= own.items() for own in labels)
    (budget,) = kinds(found, "PodDisruptionBudget")
    assert all(budget["spec"]["selector"]["matchLabels"].items() <= own.items() for own in labels)


def test_replicas_that_are_leaving_still_run() -> None:
    assert [item["spec"]["replicas"] for item in kinds(render(told()), "Deployment")] == [1, 2]


@pytest.mark.parametrize(
    ("nodes", "most"),
    [
        ([{"name": "n1", "replicas": 1}], 0),
        ([{"name": "n1", "replicas": 0, "leaving": 1}], 0),
        ([{"name": "n1", "replicas": 2}, {"name": "n2", "replicas": 1}], 0),
        ([], None),
        ([{"name": "n1", "replicas": 0}], None),
        ([{**POOL, "replicas": 3}], 1),
        ([{**POOL, "replicas": 1, "leaving": 0}], None),
    ],
    ids=["one", "one on its way out", "several", "none", "none any more", "several in a pool", "one in a pool"],
)
def test_what_serves_is_evicted_by_nobody_and_a_pool_can_be_emptied(nodes: list[Raw], most: int | None) -> None:
    """What does not serve never holds up a drain, whatever the count."""
    of = told().model_copy(
        update={"spec": told(*nodes).spec if nodes else told().spec.model_copy(update={"nodes": ()})}
    )
    budgets = [item["spec"] for item in kinds(render(of), "PodDisruptionBudget")]
    assert [item["maxUnavailable"] for item in budgets] == ([] if most is None else [most])
    assert all(item["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for item in budgets)


def test_where_the_user_has_a_budget_there_is_no_second_one() -> None:
    assert kinds(render(told(), users_budget=True), "PodDisruptionBudget") == []


# Services and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ports"),
    [("8081", [("http", 80), ("grpc", 8081)]), ("0", [("http", 80)]), ("80", [("http", 80)]), ("x", [("http", 80)])],
)
def test_the_service_has_a_grpc_port_where_the_pod_serves_one(value: str, ports: list[tuple[str, int]]) -> None:
    runtime = {"name": "runtime", "env": [{"name": "EDGEWARD_GRPC_PORT", "value": value}]}
    assignment = told(podTemplate={"spec": {"containers": [{"name": "sidecar"}, runtime]}})
    service = kinds(render(assignment), "Service")[0]
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == ports


def test_a_site_has_its_service_where_there_are_several() -> None:
    of = told(NODES[0])
    assert [item["metadata"]["name"] for item in kinds(render(of), "Service")] == ["signs"]
    assert [item["metadata"]["name"] for item in kinds(render(of, site_service=True), "Service")] == [
        "signs",
        "signs-edge",
    ]


@pytest.mark.parametrize(
    ("nodes", "persistent", "apart"),
    [
        ([{"name": "n1", "replicas": 1}], True, False),
        ([{"name": "n1", "replicas": 3}], True, False),
        ([{"name": "n1", "replicas": 2}, {"name": "n2", "replicas": 0}], True, False),
        ([{"name": "n1", "replicas": 1, "leaving": 0}, {"name": "n2", "replicas": 0, "leaving": 1}], True, True),
        ([{"name": "n1", "replicas": 3}], False, True),
        ([{"name": "n1", "replicas": 1}], False, False),
        ([{**POOL, "replicas": 2}], True, True),
        ([{**POOL, "replicas": 1, "leaving": 0}], True, False),
    ],
)
def test_pods_with_stores_apart_learn_of_each_other(nodes: list[Raw], persistent: bool, apart: bool) -> None:
    of = told(*nodes)
    services = [
        item for item in kinds(render(of, persistent=persistent), "Service") if item["metadata"]["name"] != "signs"
    ]
    told_so = document(of, persistent=persistent).get("peers")
    assert bool(services) == (told_so is not None) == apart
    if told_so is not None:
        (service,) = services
        assert service["metadata"]["name"] == f"{config_name(of)}-peers"
        assert told_so["hosts"] == [f"{config_name(of)}-peers.shop.svc"]
        assert service["spec"]["ports"][0]["port"] == told_so["port"] != 8080
        assert service["spec"]["selector"] == {"edgeward.dev/assignment": of.name}
        assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
        jsonschema.validate(document(of, persistent=persistent), CONFIG_SCHEMA)


def test_peers_of_another_job_have_another_token() -> None:
    tokens = {document(of)["peers"]["token"] for of in (told(), told(site="other"), told(job="other"))}
    assert len(tokens) == 3


@pytest.mark.parametrize(
    ("site", "job"), [("Shop_1", "signs"), ("shop.1", "signs"), ("s" * 63, "signs"), ("s", "j" * 63)]
)
def test_a_site_whose_name_cannot_name_a_service_gets_a_derived_one(site: str, job: str) -> None:
    """A site's name is a label's value; an invalid Service would be refused and stop the job at that site."""
    of = told(NODES[0], site=site, job=job)
    names = [item["metadata"]["name"] for item in kinds(render(of, site_service=True), "Service")]
    assert names == [job, config_name(of)]


def test_names_at_the_length_limit_stay_labels() -> None:
    of = told({"name": "n" * 253, "replicas": 2}, site="s" * 63, job="j" * 63)
    for child in render(of, site_service=True):
        assert len(child.name) <= 63
        for value in child.body["metadata"]["labels"].values():
            assert len(value) <= 63


def test_derived_names_differ_by_what_they_are_for() -> None:
    of = told()
    names = {config_name(of), placement_name(of, "n1"), placement_name(of, "n2"), store_name("shop", "n1")}
    assert len(names) == 4
    assert store_name("shop", "n1") != store_name("other", "n1")


# The config ----------------------------------------------------------------------------------------------------------


def document(of: Assignment, config: Raw | None = None, **more: Any) -> Raw:
    (found,) = kinds(render(of, config=config, **more), "ConfigMap")
    said: Raw = json.loads(found["data"]["models.json"])
    return said


def config_map(of: Assignment, config: Raw | None = None) -> Raw:
    return kinds(render(of, config=config), "ConfigMap")[0]


NEW = [{"name": "m", "version": "2.0", "digest": OTHER, "sources": ["https://models/m2"], "parameters": {"a": [1]}}]


def test_the_config_is_the_contracts() -> None:
    for of in (told(), told(models=NEW)):
        jsonschema.validate(document(of), CONFIG_SCHEMA)
    assert document(told())["revision"] == 4


def test_a_runtime_is_told_whose_signature_it_must_find() -> None:
    signature = {"policy": "Require", "keys": ["PEM"]}
    said = document(told(models=[{**NEW[0], "signature": signature}]))
    jsonschema.validate(said, CONFIG_SCHEMA)
    assert said["models"][0]["signature"] == signature
    assert "signature" not in document(told(models=[{**NEW[0], "signature": {"policy": "Off"}}]))["models"][0]


def test_where_hard_requests_go_is_told_with_the_jobs_latency_bound() -> None:
    offload = {"url": "http://big.shop.svc:80/v2/models/m", "criterion": "Entropy", "spill": True}
    budget = {"requests": "5%", "bytesPerHour": "50Mi"}
    said = document(told(offload={**offload, "budget": budget}, effective={"slo": {"latency": "80ms"}}))
    jsonschema.validate(said, CONFIG_SCHEMA)
    assert said["offload"] == {
        **offload,
        "budget": {"requests": "5%", "bytesPerHour": 50 * 2**20},
        "latencySeconds": 0.08,
    }
    assert "offload" not in document(told())


def test_the_runtime_is_told_what_to_keep_in_its_own_units() -> None:
    rules = [{"when": "LowConfidence", "every": 100, "priority": 1}, {"when": "Error"}]
    asked = {"rules": rules, "ttl": "1h30m", "maxBytes": "1Gi", "redaction": "Sketch"}
    assert document(told(effective={"capture": asked}))["capture"] == {
        "rules": rules,
        "ttlSeconds": 5400,
        "maxBytes": 2**30,
        "redaction": "Sketch",
    }
    assert document(told(effective={"capture": {}}))["capture"] == {"redaction": "Features", "rules": []}
    huge = document(told(effective={"capture": {"maxBytes": "1000Ei", "ttl": "1ms"}}))
    assert (huge["capture"]["maxBytes"], huge["capture"]["ttlSeconds"]) == (2**53, 1)
    assert "capture" not in document(told())


@pytest.mark.parametrize(
    ("hub", "site", "kept"), [("Raw", "Sketch", "Sketch"), ("None", "Raw", "None"), (None, "None", "None")]
)
def test_the_cluster_has_the_last_word_on_what_is_kept(hub: str | None, site: Any, kept: str) -> None:
    asked = {} if hub is None else {"redaction": hub}
    children_ = render(told(effective={"capture": asked}), settings=AgentSettings(redaction=site))
    (found,) = kinds(children_, "ConfigMap")
    assert json.loads(found["data"]["models.json"])["capture"]["redaction"] == kept


def test_credentials_are_mounted_for_the_fetch_and_may_come_later() -> None:
    pod = pod_of(told(secrets=[{"name": "registry", "use": "Pull"}, {"name": "other", "use": "SomethingOfLater"}]))
    (runtime,) = pod["spec"]["containers"]
    assert {"name": "EDGEWARD_CREDENTIALS_DIR", "value": "/etc/edgeward/credentials"} in runtime["env"]
    assert {"name": "credentials", "mountPath": "/etc/edgeward/credentials", "readOnly": True} in runtime[
        "volumeMounts"
    ]
    volumes = [volume for volume in pod["spec"]["volumes"] if "secret" in volume]
    assert volumes == [{"name": "credentials", "secret": {"secretName": "registry", "optional": True}}]
    (runtime,) = pod_of(told())["spec"]["containers"]
    assert not any("credentials" in str(value).lower() for value in (runtime["env"], runtime["volumeMounts"]))


def test_the_store_may_fill_its_volume_and_no_more() -> None:
    (runtime,) = pod_of(told(), settings=AgentSettings(store_size="1500Mi"))["spec"]["containers"]
    assert {"name": "EDGEWARD_STORE_BYTES", "value": str(1500 * 2**20)} in runtime["env"]


def test_a_downloads_pace_is_told_in_bits() -> None:
    said = document(told(models=[{**NEW[0], "downloadPace": "2M"}]))
    assert said["models"][0]["downloadPace"] == 2_000_000
    assert "downloadPace" not in document(told())["models"][0]


def test_a_canary_and_what_to_do_without_memory_are_told() -> None:
    stable = {"name": "m", "version": "1.0", "digest": f"sha256:{1:064x}", "sources": ["https://models/m1"]}
    canary = {**NEW[0], "role": "Canary", "traffic": "10%", "mirror": 20}
    said = document(told(models=[stable, canary], effective={"modelSwap": {"whenTooBig": "OffloadInGap"}}))
    jsonschema.validate(said, CONFIG_SCHEMA)
    assert said["modelSwap"] == {"whenTooBig": "OffloadInGap"}
    assert [(model["role"], model.get("traffic"), model.get("mirror")) for model in said["models"]] == [
        ("Stable", None, None),
        ("Canary", "10%", 20),
    ]


def test_a_change_of_nodes_keeps_the_configs_revision_and_a_change_of_models_does_not() -> None:
    first = config_map(told())
    assert document(told(*NODES, {"name": "n3", "replicas": 1}, revision=9), first)["revision"] == 4
    assert document(told(models=NEW, revision=9), first)["revision"] == 9


def test_the_configs_revision_only_counts_up() -> None:
    """A hub restored from a backup starts lower than what the pods have read."""
    late = config_map(told(revision=40))
    assert document(told(models=NEW, revision=7), late)["revision"] == 41


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"revision": "x"}', '{"revision": null}'])
def test_a_config_that_somebody_broke_is_written_anew(text: str) -> None:
    for broken in ({"data": {"models.json": text}}, {"data": {}}, {"data": None}, {}):
        assert document(told(), broken)["revision"] == 4


# The seal ------------------------------------------------------------------------------------------------------------


def test_what_is_no_longer_wanted_shows_in_the_seal() -> None:
    def seals(of: Assignment) -> dict[str, str]:
        return {child.name: child.body["metadata"]["annotations"]["edgeward.dev/applied"] for child in render(of)}

    with_env = {"spec": {"containers": [{"name": "runtime", "resources": {"limits": {"cpu": "2"}}}]}}
    one, two, three = seals(told(podTemplate=with_env)), seals(told()), seals(told())
    assert two == three
    assert one[placement_name(told(), "n1")] != two[placement_name(told(), "n1")]


def made(body: Raw, *, progressing: str = "NewReplicaSetAvailable", ready: int = 1) -> Raw:
    """A Deployment as the API has it once the controller has looked at it."""
    conditions = [{"type": "Progressing", "status": "True", "reason": progressing}]
    return {**body, "status": {"conditions": conditions, **({"readyReplicas": ready} if ready else {})}}


def test_an_upgrade_renders_otherwise_and_leaves_the_deployments_alone() -> None:
    newer = AgentSettings(runtime_image="localhost/edgeward-runtime:next", image_pull_policy="Always", store_size="9Gi")
    before = kinds(render(told()), "Deployment")
    present = [made(body) for body in before]
    assert kinds(render(told(), settings=newer, deployments=present, tiers={"n1": "cloud"}), "Deployment") == before
    # A model, a mark of the same tier and the number of replicas are no matter of the pods.
    other = told({"name": "n1", "replicas": 3}, models=[{"name": "m", "version": "2", "digest": OTHER}])
    marks = other.spec.effective.priority.model_copy(update={"satisfaction": 2})
    other = other.model_copy(
        update={
            "spec": other.spec.model_copy(
                update={"effective": other.spec.effective.model_copy(update={"priority": marks})}
            )
        }
    )
    (more,) = kinds(render(other, settings=newer, deployments=present), "Deployment")
    assert (more["spec"]["template"], more["spec"]["replicas"]) == (before[0]["spec"]["template"], 3)


@pytest.mark.parametrize(
    "change",
    [
        {"podTemplate": {"metadata": {"annotations": {"restarted": "now"}}}},
        {"effective": {"resources": {"requests": {"cpu": "501m", "memory": "256Mi"}}}},
        {"effective": {"priority": {"importance": 1, "urgency": 1, "satisfaction": 1}}},
        {"secrets": [{"name": "key", "use": "Pull"}]},
    ],
)
def test_the_next_change_of_the_pods_brings_what_a_newer_version_renders(change: Raw) -> None:
    present = [made(body) for body in kinds(render(told()), "Deployment")]
    newer = AgentSettings(runtime_image="localhost/edgeward-runtime:next")
    found = kinds(render(told(**change), settings=newer, deployments=present), "Deployment")
    assert {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in found} == {newer.runtime_image}


def test_the_same_amount_written_otherwise_is_no_change() -> None:
    present = [made(body) for body in kinds(render(told()), "Deployment")]
    same = told(
        effective={
            "priority": {"importance": 4, "urgency": 5, "satisfaction": 3},
            "resources": {"requests": {"cpu": "0.5", "memory": "262144Ki"}, "limits": {"memory": "512Mi"}},
            "placement": {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
        }
    )
    kept = [body["spec"]["template"] for body in kinds(render(same, deployments=present), "Deployment")]
    assert kept == [body["spec"]["template"] for body in present]


def test_a_mended_image_reaches_pods_that_never_came_up() -> None:
    wrong, right = (AgentSettings(runtime_image=f"registry/{name}") for name in ("wrong", "right"))
    before = kinds(render(told(), settings=wrong), "Deployment")

    def image(**state: Any) -> str:
        present = [made(body, **state) for body in before]
        found = kinds(render(told(), settings=right, deployments=present), "Deployment")
        return str(found[0]["spec"]["template"]["spec"]["containers"][0]["image"])

    assert image(progressing="ReplicaSetUpdated", ready=0) == "registry/right"
    assert image(progressing="ProgressDeadlineExceeded", ready=1) == "registry/right"
    assert image(progressing="ReplicaSetUpdated", ready=1) == "registry/wrong", "a change is on its way"
    assert image(ready=0) == "registry/wrong", "it served once: its node is away, or it crashed"


def test_what_somebody_did_to_a_deployment_is_undone_with_the_template_that_it_had() -> None:
    before = kinds(render(told()), "Deployment")
    present = [made(body) for body in json.loads(json.dumps(before))]
    present[0]["spec"]["template"]["spec"]["containers"][0]["image"] = "somebody/else"
    newer = AgentSettings(runtime_image="localhost/edgeward-runtime:next")
    assert kinds(render(told(), settings=newer, deployments=present), "Deployment") == before
    # Without the notes nobody knows what it was.
    for body in present:
        body["metadata"]["annotations"].pop("edgeward.dev/pod-template")
    found = kinds(render(told(), settings=newer, deployments=present), "Deployment")
    assert found[0]["spec"]["template"]["spec"]["containers"][0]["image"] == newer.runtime_image


def test_a_template_too_large_for_a_note_is_rendered_each_time() -> None:
    """An object's annotations may have 256 KiB together: the Deployment of a job with a long podTemplate was refused."""
    env = [{"name": f"V{number}", "value": "x" * 1000} for number in range(260)]
    long = told(podTemplate={"spec": {"containers": [{"name": "runtime", "env": env}]}})
    (body,) = kinds(render(long), "Deployment")[:1]
    notes = body["metadata"]["annotations"]
    assert sum(len(key) + len(text) for key, text in notes.items()) < 256 * 1024
    assert "edgeward.dev/pod-template" not in notes
    present = [made(one) for one in kinds(render(long), "Deployment")]
    assert kinds(render(long, deployments=present), "Deployment")[0] == body
