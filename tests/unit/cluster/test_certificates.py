"""The certificates say who each part is; openssl itself checks them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cluster.certificates import Authority, write_kubeconfig
from tests.cluster.progress import ClusterError


def text(certificate: Path) -> str:
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-subject", "-ext", "subjectAltName"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_kubelets_certificate_names_its_node_group_and_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue(
        "kubelet", user="system:node:edge-1", groups=["system:nodes"], dns=["edge-1"], ips=["10.0.0.7"]
    )
    assert text(pair.certificate).splitlines()[0] == "subject=O = system:nodes, CN = system:node:edge-1"
    assert "DNS:edge-1, IP Address:10.0.0.7" in text(pair.certificate)
    subprocess.run(
        ["openssl", "verify", "-CAfile", str(authority.pair.certificate), str(pair.certificate)],
        check=True,
        capture_output=True,
    )


def test_asking_again_gives_the_same_certificate_and_a_new_authority_object_the_same_authority(tmp_path: Path) -> None:
    first = Authority(tmp_path).issue("a", user="a").certificate.read_bytes()
    assert Authority(tmp_path).issue("a", user="a").certificate.read_bytes() == first
    assert not list(tmp_path.glob("*.csr"))


def test_what_openssl_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="openssl x509 failed"):
        Authority(tmp_path).issue("bad", user="x", ips=["not an address"])
    good = Authority(tmp_path).issue("bad", user="x", ips=["10.0.0.1"])
    assert "IP Address:10.0.0.1" in text(good.certificate), "the failed one was not taken for whole"


def test_a_kubeconfig_holds_everything_and_is_private(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    path = write_kubeconfig(
        tmp_path / "config",
        name="one",
        server="https://127.0.0.1:1",
        authority=authority.pair.certificate,
        pair=authority.issue("admin", user="admin"),
    )
    document = json.loads(path.read_text())
    assert document["current-context"] == "one"
    assert document["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
    assert path.stat().st_mode & 0o777 == 0o600
