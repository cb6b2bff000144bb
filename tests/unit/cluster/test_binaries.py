"""Programs are built once per set of inputs, found again, and a half-built one is never taken for a whole one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cluster import binaries as module
from tests.cluster.binaries import Binaries, cache_key, go_toolchain, linker_flags, module_version
from tests.cluster.catalog import FAMILIES, GROUPS, families_of
from tests.cluster.packages import LIST, read_list
from tests.cluster.paths import TOOLS, cache_root
from tests.cluster.progress import ClusterError, silent

FAKE_GO = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go1.26.8 linux/amd64"; exit 0; fi
echo "$PWD $*" >> "$FAKE_GO_LOG"
if [ -n "$FAKE_GO_FAILS" ]; then echo "undefined: something"; exit 1; fi
while [ "$1" != -o ]; do shift; done
sleep 0.2
echo program > "$2"
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the Go toolchain that writes a file; returns its log of calls."""
    folder = tmp_path / "go-bin"
    folder.mkdir()
    (folder / "go").write_text(FAKE_GO)
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GO_LOG", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


def test_the_key_changes_with_every_input() -> None:
    files = {"go.mod": b"a", "go.sum": b"b"}
    base = cache_key(files, flags="-trimpath", toolchain="go1.26.8")
    others = [
        cache_key({**files, "go.mod": b"A"}, flags="-trimpath", toolchain="go1.26.8"),
        cache_key({"go.mod": b"ab", "go.sum": b""}, flags="-trimpath", toolchain="go1.26.8"),
        cache_key({**files, "main.go": b""}, flags="-trimpath", toolchain="go1.26.8"),
        cache_key(files, flags="", toolchain="-trimpathgo1.26.8"),
        cache_key(files, flags="-trimpath", toolchain="go1.26.9"),
    ]
    assert len({base, *others}) == 6
    assert base == cache_key(dict(reversed(files.items())), flags="-trimpath", toolchain="go1.26.8")


def test_versions_come_from_go_mod_in_either_form() -> None:
    text = "module x\n\nrequire a.b/c v1.2.3\nrequire (\n\ta.b/c/v2 v2.0.1 // indirect\n)\n"
    assert module_version(text, "a.b/c") == "v1.2.3"
    assert module_version(text, "a.b/c/v2") == "v2.0.1"
    with pytest.raises(ClusterError, match="does not require"):
        module_version(text, "a.b/d")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_family_is_pinned_with_its_checksums_and_stamped(family: module.Family) -> None:
    folder = TOOLS / family.name
    text = (folder / "go.mod").read_text()
    if not family.module:
        assert (folder / "main.go").exists()
        return
    assert (folder / "go.sum").stat().st_size > 0
    version = module_version(text, family.module)
    flags = linker_flags(family, version=version, kubernetes_version="v1.36.3")
    assert version in flags
    assert "{" not in flags
    for package in family.programs.values():
        assert f"\t{package}\n" in text or f"tool {package}\n" in text


def test_kubernetes_says_its_version_in_parts() -> None:
    flags = linker_flags(FAMILIES["kubernetes"], version="v1.36.3", kubernetes_version="v1.36.3")
    assert "k8s.io/component-base/version.gitMajor=1 " in flags
    assert "k8s.io/component-base/version.gitMinor=36 " in flags


def test_a_group_builds_only_what_it_needs() -> None:
    found = {family.name: programs for family, programs, _ in families_of(("control-plane",))}
    assert set(found) == {"kubernetes", "etcd"}
    assert "kubelet" not in found["kubernetes"]
    assert {p for f, ps, _ in families_of(tuple(GROUPS)) for p in ps} == {p for ps in GROUPS.values() for p in ps}


def test_it_builds_once_and_says_what_for(go: Path, tmp_path: Path) -> None:
    said: list[str] = []
    binaries = Binaries(cache=tmp_path / "cache", say=said.append)
    binaries.ensure("helm")
    assert binaries.path("helm").read_text() == "program\n"
    assert any("installing the chart" in line for line in said)
    assert any("minute" in line for line in said)
    Binaries(cache=tmp_path / "cache", say=silent).ensure("helm")
    assert len(go.read_text().splitlines()) == 1


def test_two_callers_at_once_build_once(go: Path, tmp_path: Path) -> None:
    callers = [
        threading.Thread(target=Binaries(cache=tmp_path / "cache", say=silent).ensure, args=("kwok",)) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(go.read_text().splitlines()) == 1


def test_a_failed_build_leaves_no_program_and_names_its_log(
    go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", "yes")
    binaries = Binaries(cache=tmp_path / "cache", say=silent)
    with pytest.raises(ClusterError, match=r"(?s)building helm failed; read .*helm\.log.*undefined: something"):
        binaries.ensure("helm")
    with pytest.raises(ClusterError, match="not built yet"):
        binaries.path("helm")
    assert [p.name for p in (tmp_path / "cache" / "bin").glob("helm-*/*")] == ["helm.log"]


def test_without_go_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"No Go toolchain.*Install Go 1\.26"):
        go_toolchain()


def test_an_old_go_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ClusterError, match="too old"):
        go_toolchain()


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_root({"EDGEWARD_CACHE": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/a/b")
    assert cache_root({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/edgeward")
    assert cache_root({"HOME": "/h"}) == Path("/h/.cache/edgeward")


def test_every_debian_package_says_how_it_is_recognised_and_why() -> None:
    packages = read_list(LIST.read_text())
    assert {"runc", "containernetworking-plugins", "prometheus", "buildah", "mmdebstrap"} <= {p.name for p in packages}
    assert all(package.probe and package.why for package in packages)


@pytest.mark.parametrize("line", ["runc", "runc runc extra # why"])
def test_a_malformed_package_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        read_list(line)


def test_the_command_line_refuses_an_unknown_group(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "build", "kubernets"],
        cwd=TOOLS.parents[2],
        env={**os.environ, "EDGEWARD_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no such group: kubernets; there are control-plane" in done.stderr
