"""Installs the Debian packages of packages.txt that are missing, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .progress import ClusterError, Say

LIST = Path(__file__).resolve().parent / "packages.txt"
_POLICY = Path("/usr/sbin/policy-rc.d")
_SERVICES = {
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "docker-registry": "docker-registry",
}


@dataclass(frozen=True)
class Package:
    """probe: a program on PATH, or an absolute path that exists when the package is installed."""

    name: str
    probe: str
    why: str


def read_list(text: str) -> list[Package]:
    """Lines `name probe # why`; empty lines and whole-line comments are skipped. ValueError for any other line."""
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        fields, _, why = line.partition("#")
        name, probe = fields.split()
        found.append(Package(name, probe, why.strip()))
    return found


def is_there(package: Package) -> bool:
    if package.probe.startswith("/"):
        return Path(package.probe).exists()
    return shutil.which(package.probe, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def ensure_packages(say: Say, *names: str) -> None:
    """Install what is missing (of these, or of the whole list). ClusterError without root, apt-get or success."""
    missing = [p for p in read_list(LIST.read_text()) if (not names or p.name in names) and not is_there(p)]
    if not missing:
        return
    listed = " ".join(p.name for p in missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(
            f"These packages are missing and need root and apt-get: {listed}. Install them and try again."
        )
    say(f"installing Debian packages: {listed}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for command in (
            ["apt-get", "-q", "update"],
            ["apt-get", "-qy", "install", "--no-install-recommends", *listed.split()],
        ):
            done = subprocess.run(command, env=environ, capture_output=True, text=True)
            if done.returncode != 0:
                raise ClusterError(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout).strip()[-800:]}")
    for package in missing:
        if package.name in _SERVICES and Path("/run/systemd/system").exists():
            # Only the programs are wanted: Debian's own services shall not come up at the next boot either.
            subprocess.run(["systemctl", "disable", "--now", _SERVICES[package.name]], capture_output=True)
    still = [p.name for p in missing if not is_there(p)]
    if still:
        raise ClusterError(f"installed, but not found afterwards: {', '.join(still)}")


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep Debian from starting what it installs (invoke-rc.d(8): exit status 101 forbids it)."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
