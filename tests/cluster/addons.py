"""What every cluster has besides its nodes: DNS, node-local volumes, Prometheus, and on request metrics-server.

The programs run on the host at the bridge address; a Service without a selector and an EndpointSlice lead pods there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .api import Api, ApiError
from .plan import ClusterPlan

Object = dict[str, Any]
STORAGE_CLASS = "edgeward-local"
PROMETHEUS_PORT = 9090
METRICS_PORT = 4443
DNS_PORT = 10053  # on the host; 53 may be taken there by a resolver of its own


def _service(
    name: str, namespace: str, plan: ClusterPlan, ports: list[Object], *, port: int | None = None, **spec: str
) -> list[tuple[str, Object]]:
    """The Service and its EndpointSlice, which points at the host, with their API paths. `port`: the Service's own,
    where it differs from the host's."""
    where = {"name": name, "namespace": namespace}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": where,
        "spec": {"ports": [{**p, "port": port or p["port"], "targetPort": p["port"]} for p in ports], **spec},
    }
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**where, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [plan.host], "conditions": {"ready": True}}],
        "ports": ports,
    }
    return [
        (f"/api/v1/namespaces/{namespace}/services/{name}", service),
        (f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}", slice_),
    ]


def _role(name: str, user: str, rules: list[Object]) -> list[tuple[str, Object]]:
    base = "/apis/rbac.authorization.k8s.io/v1"
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    return [(f"{base}/clusterroles/{name}", role), _binding(name, user, "ClusterRole", name)]


def _binding(name: str, user: str, kind: str, role: str, namespace: str = "") -> tuple[str, Object]:
    group = "rbac.authorization.k8s.io"
    where = f"/namespaces/{namespace}/rolebindings" if namespace else "/clusterrolebindings"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": group, "kind": kind, "name": role},
        "subjects": [{"kind": "User", "apiGroup": group, "name": user}],
    }
    return f"/apis/{group}/v1{where}/{name}", binding


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def basics(plan: ClusterPlan) -> list[tuple[str, Object]]:
    """(path, object) of what CoreDNS, Prometheus and the volumes need in the API."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}}
    storage = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    watch = ["list", "watch"]
    dns_ports: list[Object] = [
        {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
    ]
    web: list[Object] = [{"name": "web", "port": PROMETHEUS_PORT, "protocol": "TCP"}]
    return [
        ("/api/v1/namespaces/monitoring", namespace),
        (f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage),
        *_role(
            "edgeward-test-coredns",
            "system:coredns",
            [
                _rule([""], ["endpoints", "services", "pods", "namespaces"], watch),
                _rule(["discovery.k8s.io"], ["endpointslices"], watch),
            ],
        ),
        *_role(
            "edgeward-test-prometheus",
            "edgeward-test-prometheus",
            [
                _rule([""], ["nodes/metrics"], ["get"]),
                _rule([""], ["nodes", "services", "endpoints", "pods"], ["get", *watch]),
                _rule(["discovery.k8s.io"], ["endpointslices"], ["get", *watch]),
            ],
        ),
        *_service("kube-dns", "kube-system", plan, dns_ports, port=53, clusterIP=plan.dns),
        *_service("prometheus", "monitoring", plan, web),
    ]


def metrics_api(plan: ClusterPlan) -> list[tuple[str, Object]]:
    user = "edgeward-test-metrics-server"
    name = "v1beta1.metrics.k8s.io"
    service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "metrics-server", "namespace": "kube-system", "port": METRICS_PORT},
        },
    }
    rules = [
        _rule([""], ["nodes/metrics"], ["get"]),
        _rule([""], ["pods", "nodes", "namespaces", "configmaps"], ["get", "list", "watch"]),
    ]
    ports: list[Object] = [{"name": "https", "port": METRICS_PORT, "protocol": "TCP"}]
    return [
        *_role(user, user, rules),
        _binding(f"{user}-delegator", user, "ClusterRole", "system:auth-delegator"),
        _binding(f"{user}-reader", user, "Role", "extension-apiserver-authentication-reader", "kube-system"),
        *_service("metrics-server", "kube-system", plan, ports),
        (f"/apis/apiregistration.k8s.io/v1/apiservices/{name}", service),
    ]


def volume_object(cluster: str, node: str, path: Path, gib: int) -> tuple[str, Object]:
    """A local PersistentVolume for one folder of one node, as (path, object)."""
    name = f"{node}-{path.name}"
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"edgeward-test-cluster": cluster}},
        "spec": {
            "capacity": {"storage": f"{gib}Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    }
    return f"/api/v1/persistentvolumes/{name}", volume


def apply_all(api: Api, objects: list[tuple[str, Object]]) -> None:
    """Server-side apply, one by one, in this order. An object that another writer just changed is tried again."""
    for path, body in objects:
        for attempt in range(5):
            try:
                api.apply(path, body)
                break
            except ApiError as error:
                if error.status != 409 or attempt == 4:
                    raise


def corefile(plan: ClusterPlan, kubeconfig: Path, *, resolvers: bool) -> str:
    """CoreDNS' configuration. resolvers: whether this machine has any, for names outside the cluster."""
    forward = "forward . /etc/resolv.conf" if resolvers else ""
    return f""".:{DNS_PORT} {{
    bind {plan.host}
    errors
    ready {plan.host}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    {forward}
    cache 5
}}
"""


def prometheus_config(plan: ClusterPlan, pki: Path, targets: Path, *, interval_s: int = 5) -> str:
    """Prometheus' configuration, as JSON, which is YAML too.

    Each kubelet is scraped as a client that may read nodes/metrics; the label `node` is the node's name. Files that are
    put into `targets` (*.json, Prometheus' file_sd format) add plain http targets.
    """
    kubelets = [{"targets": [f"{n.address}:10250"], "labels": {"node": n.spec.name}} for n in plan.nodes]
    tls = {
        "ca_file": str(pki / "ca.crt"),
        "cert_file": str(pki / "prometheus.crt"),
        "key_file": str(pki / "prometheus.key"),
    }

    def kubelet(job: str, path: str) -> Object:
        return {
            "job_name": job,
            "scheme": "https",
            "metrics_path": path,
            "tls_config": tls,
            "static_configs": kubelets,
        }

    return json.dumps(
        {
            "global": {"scrape_interval": f"{interval_s}s", "scrape_timeout": f"{min(interval_s, 4)}s"},
            "scrape_configs": [
                kubelet("kubelet-cadvisor", "/metrics/cadvisor"),
                kubelet("kubelet-resource", "/metrics/resource"),
                {"job_name": "extra", "file_sd_configs": [{"files": [f"{targets}/*.json"], "refresh_interval": "5s"}]},
            ],
        },
        indent=1,
    )
