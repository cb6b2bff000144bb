"""Laying a podTemplate over a pod, and seeing past what the API server fills in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.agent.merge import contains, overlay


def test_maps_merge_and_named_lists_merge_by_name() -> None:
    base = {"containers": [{"name": "runtime", "env": [{"name": "A", "value": "1"}]}], "x": {"y": 1, "z": 2}}
    over = {"containers": [{"name": "runtime", "env": [{"name": "B", "value": "2"}]}, {"name": "side"}], "x": {"y": 3}}
    assert overlay(base, over) == {
        "containers": [
            {"name": "runtime", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "side"},
        ],
        "x": {"y": 3, "z": 2},
    }


def test_other_lists_are_replaced() -> None:
    assert overlay({"args": ["a", "b"]}, {"args": ["c"]}) == {"args": ["c"]}
    assert overlay({"list": [{"name": "a"}]}, {"list": []}) == {"list": []}


def test_mounts_merge_by_their_path_as_one_volume_may_be_mounted_twice() -> None:
    base = {"volumeMounts": [{"name": "store", "mountPath": "/store"}]}
    over = {"volumeMounts": [{"name": "data", "mountPath": "/a", "subPath": "a"}, {"name": "data", "mountPath": "/b"}]}
    assert overlay(base, over)["volumeMounts"] == base["volumeMounts"] + over["volumeMounts"]
    again = {"volumeMounts": [{"name": "store", "mountPath": "/mine"}]}
    assert overlay(base, again)["volumeMounts"] == base["volumeMounts"] + again["volumeMounts"]


def test_nothing_given_is_changed() -> None:
    base, over = {"a": [{"name": "x", "b": {}}]}, {"a": [{"name": "x", "b": {"c": 1}}]}
    overlay(base, over)
    assert base == {"a": [{"name": "x", "b": {}}]} and over == {"a": [{"name": "x", "b": {"c": 1}}]}


WANTED: dict[str, Any] = {
    "metadata": {"name": "x", "labels": {"a": "b"}},
    "spec": {
        "replicas": 1,
        "tolerations": [],
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "c",
                        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
                        "ports": [{"containerPort": 80}],
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            }
        },
    },
}


def as_the_api_has_it() -> dict[str, Any]:
    return {
        "metadata": {"name": "x", "labels": {"a": "b", "c": "d"}, "uid": "u", "generation": 1},
        "spec": {
            "replicas": 1,
            "progressDeadlineSeconds": 600,
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "c",
                            "imagePullPolicy": "IfNotPresent",
                            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                            "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        }
                    ],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                    "dnsPolicy": "ClusterFirst",
                }
            },
        },
        "status": {"replicas": 1},
    }


def test_what_the_api_server_filled_in_is_no_difference() -> None:
    assert contains(as_the_api_has_it(), WANTED)


@pytest.mark.parametrize(
    "change",
    [
        lambda actual: actual["spec"].update(replicas=2),
        lambda actual: actual["metadata"]["labels"].pop("a"),
        lambda actual: actual["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"].update(cpu="2"),
        lambda actual: actual["spec"]["template"]["spec"]["containers"].append({"name": "injected"}),
        lambda actual: actual["spec"]["template"]["spec"]["volumes"][0].update(name="other"),
        lambda actual: actual["spec"].pop("template"),
    ],
)
def test_what_somebody_changed_is(change: Any) -> None:
    actual = as_the_api_has_it()
    change(actual)
    assert not contains(actual, WANTED)


@pytest.mark.parametrize(
    ("actual", "wanted", "same"),
    [
        ("1", "1000m", True),
        ("1Gi", "1024Mi", True),
        (80, "80", True),
        ("a", "b", False),
        (None, {}, True),
        (None, "x", False),
    ],
)
def test_values(actual: Any, wanted: Any, same: bool) -> None:
    assert contains({"v": actual}, {"v": wanted}) is same


trees = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=8,
)


@given(trees)
def test_everything_contains_itself_and_laid_over_itself_is_itself(tree: Any) -> None:
    assert contains(tree, tree)
    assert overlay(tree, tree) == tree
