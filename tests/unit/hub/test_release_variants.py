"""A release says which sites have a variant, and which still lack theirs."""

from __future__ import annotations

from edgeward.api.common import parse, to_dict
from edgeward.api.modelrelease import ModelRelease
from edgeward.hub.release_status import release_status
from edgeward.rollout.step import step
from tests.unit.fleet.objects import DIGEST, NOW, Raw, assignment, fleet, job, node, release

SMALL = f"sha256:{8:064x}"
ARM = {"match": {"arch": "arm64"}, "artifact": {"uri": "https://models/small", "digest": SMALL}}


def at(site: str, told: str, serves: str) -> Raw:
    models = [{"name": "m", "version": "1.0", "digest": told, "sources": ["https://models/m"]}]
    status = {"readyReplicas": 1, "models": [{"name": "m", "version": "1.0", "digest": serves, "serving": True}]}
    return assignment({"name": f"n-{site}", "replicas": 1}, site=site, models=models, status=status)


def of_arch(site: str, arch: str) -> Raw:
    raw = node(f"n-{site}", edgeward_dev__site=site)
    raw["metadata"]["labels"]["kubernetes.io/arch"] = arch
    raw["status"].setdefault("nodeInfo", {})["architecture"] = arch
    return raw


def said(*told: Raw) -> Raw:
    raw = release(variants=[ARM])
    nodes = [of_arch("a", "arm64"), of_arch("b", "amd64"), of_arch("c", "arm64")]
    made = fleet(releases=[raw], jobs=[job()], assignments=list(told), nodes=nodes)
    (one,) = step(made).releases
    return to_dict(release_status(parse(ModelRelease, raw), "", one, now=NOW))


def ready(status: Raw) -> tuple[str, str]:
    found = next(one for one in status["conditions"] if one["type"] == "Ready")
    return found["reason"], found["message"]


def test_the_sites_of_a_variant_are_counted() -> None:
    status = said(at("a", SMALL, SMALL), at("b", DIGEST, DIGEST), at("c", SMALL, SMALL))
    assert ready(status) == ("Released", "3/3 sites serve 1.0 (2 its variant arch=arm64)")


def test_a_site_that_lacks_its_variant_is_named_with_it() -> None:
    status = said(at("a", SMALL, DIGEST), at("b", DIGEST, DIGEST))
    (exception,) = status["exceptions"]
    assert (exception["site"], exception["digest"], exception["state"]) == ("a", DIGEST, "Pending")
    assert exception["message"] == "variant arch=arm64: on its way"
