"""Every package of the images has a wheel for amd64 and one for arm64, and the locks know their hashes."""

import re
from pathlib import Path

import pytest

from tests.wheels import ARCHITECTURES, GLIBC, record

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
LOCKS = ["operator.txt", "runtime.txt"]


def locked(lock: Path) -> dict[tuple[str, str], set[str]]:
    """(name, version) -> sha256 of its files."""
    found: dict[tuple[str, str], set[str]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]:
        name, version = block.split()[0].split("==")
        found[normal(name), version] = set(re.findall(r"sha256:([0-9a-f]{64})", block))
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def fits(file: str, arch: str) -> bool:
    """Whether Python 3.11 on Debian 12 of that architecture loads a wheel of this name (PEP 425, PEP 600)."""
    python, abi, platform = file.removesuffix(".whl").rsplit("-", 3)[1:]
    if platform == "any":
        return abi == "none" and "py3" in python.split(".")
    version = [int(tag[3:]) for tag in python.split(".") if tag.startswith("cp3")]
    right_python = abi == "cp311" or (abi == "abi3" and bool(version) and max(version) <= 11)
    known = {f"manylinux_2_{minor}_{arch}" for minor in (*GLIBC, 5, 12)} | {
        f"manylinux{tag}_{arch}" for tag in (1, 2010, 2014)
    }
    return right_python and bool(known & set(platform.split(".")))


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_package_has_a_wheel_that_the_lock_lets_in(name: str, arch: str) -> None:
    lock = REQUIREMENTS / name
    there: dict[tuple[str, str], tuple[str, str]] = {}
    for line in record(lock).read_text().splitlines():
        of, file, sha256 = line.split()
        if of == arch:
            distribution, version = file.split("-")[:2]
            there[normal(distribution), version] = (file, sha256)
    wanted = locked(lock)
    assert there.keys() == wanted.keys(), f"python -m tests.wheels requirements/{name} records them anew"
    for key, (file, sha256) in there.items():
        assert sha256 in wanted[key], f"{file}: the lock does not have its hash"
        assert fits(file, arch), f"{file} does not run on {arch}"


@pytest.mark.parametrize(
    ("file", "right"),
    [
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", True),
        ("a-1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", True),
        ("a-1-cp39-abi3-manylinux_2_28_aarch64.whl", True),
        ("a-1-py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp312-cp312-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp312-abi3-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_39_aarch64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_aarch64.whl", False),
        ("a-1-cp311-cp311-macosx_11_0_arm64.whl", False),
        ("a-1-py2-none-any.whl", False),
    ],
)
def test_which_wheels_fit(file: str, right: bool) -> None:
    assert fits(file, "aarch64") is right
