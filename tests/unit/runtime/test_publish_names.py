from pathlib import Path

import pytest

from edgeward_runtime.publish import names
from edgeward_runtime.publish.names import NameProblem


@pytest.mark.parametrize("name", ["m", "sign-reader", "a.b_c--d", "v2__x"])
def test_names_that_registries_take(name: str) -> None:
    assert names.check_name(name) == name


@pytest.mark.parametrize("name", ["", "Sign", "a/b", "-a", "a-", "a..b", "a b", "ä"])
def test_names_that_they_do_not(name: str) -> None:
    with pytest.raises(NameProblem, match="--name"):
        names.check_name(name)


@pytest.mark.parametrize("version", ["1", "1.4.0", "1.4.0-rc.1", "2024_05"])
def test_versions(version: str) -> None:
    assert names.check_version(version) == version


@pytest.mark.parametrize("version", ["", ".1", "1.", "-1", "a" * 64, "1:2", "1/2"])
def test_versions_that_a_release_or_a_tag_cannot_have(version: str) -> None:
    with pytest.raises(NameProblem, match="--version"):
        names.check_version(version)


def test_build_metadata_is_refused_with_a_way_out() -> None:
    with pytest.raises(NameProblem, match=r"'\+'.*write '-' or '\.'"):
        names.check_version("1.4.0+build")


def test_where_to() -> None:
    assert names.repository("oci://r:5000/models/", "m") == "oci://r:5000/models/m"
    with pytest.raises(NameProblem, match="try --to oci://r/models"):
        names.repository("r/models", "m")
    with pytest.raises(NameProblem, match="must begin with oci://"):
        names.repository("s3://bucket", "m")


def test_variants() -> None:
    assert names.variant("tier=edge,arch=arm64:a/m.int8.onnx") == (
        {"arch": "arm64", "tier": "edge"},
        Path("a/m.int8.onnx"),
    )
    assert names.variant("arch=arm64:C:m.onnx")[1] == Path("C:m.onnx")


@pytest.mark.parametrize(
    "text", ["m.onnx", "tier=edge", "tier=edge:", ":m", "tier=moon:m", "site=a:m", "arch=a,arch=b:m"]
)
def test_variants_that_match_nothing(text: str) -> None:
    with pytest.raises(NameProblem, match="--variant"):
        names.variant(text)


def test_a_variants_tag_is_no_version() -> None:
    assert names.tag("1.4.0", {}) == "1.4.0"
    assert names.tag("1.4.0", {"arch": "arm64", "tier": "edge"}) == "1.4.0_arch-arm64_tier-edge"
    with pytest.raises(NameProblem, match="shorter --version"):
        names.tag("1" * 63, {"arch": "a" * 63, "tier": "edge"})
