"""Records which wheels the images of both architectures install: LOCK.wheels beside LOCK.txt, one `arch file sha256` a
line. The lock itself has the hashes of every file of a release and does not say what each is for.

    python -m tests.wheels requirements/runtime.txt      asks the package index, by pip; part of `make locks`

A unit test (tests/unit/test_wheels.py) then holds record and lock together without any network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ARCHITECTURES = ("x86_64", "aarch64")
PYTHON = "3.11"
# What the images' base, Debian 12 with glibc 2.36, can load (PEP 600).
GLIBC = (36, 35, 34, 31, 28, 27, 26, 24, 17)


def platforms(arch: str) -> list[str]:
    return [*(f"manylinux_2_{minor}_{arch}" for minor in GLIBC), f"manylinux2014_{arch}"]


def wheels(lock: Path, arch: str) -> list[tuple[str, str]]:
    """Names and hashes of the wheels that pip would install there, and no source archive."""
    options = [item for platform in platforms(arch) for item in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"),
        *("--ignore-installed", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", "unused"),
        *("--python-version", PYTHON, "--implementation", "cp", *options, "--report", "-", "-r", str(lock)),
    ]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = (item["download_info"] for item in report["install"])
    return [(info["url"].rsplit("/", 1)[1], info["archive_info"]["hashes"]["sha256"]) for info in found]


def record(lock: Path) -> Path:
    return lock.with_suffix(".wheels")


def main() -> None:
    for lock in map(Path, sys.argv[1:]):
        lines = [f"{arch} {name} {sha256}\n" for arch in ARCHITECTURES for name, sha256 in sorted(wheels(lock, arch))]
        record(lock).write_text("".join(lines))


if __name__ == "__main__":
    main()
