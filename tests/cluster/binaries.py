"""Builds the programs of catalog.py once and keeps them outside the work tree.

Cache layout: CACHE/bin/FAMILY-KEY/PROGRAM, where KEY covers everything that decides the bytes (go.mod, go.sum, our own
Go files, the flags and the Go toolchain), so an update of go.mod builds anew and an old checkout still finds its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .catalog import FAMILIES, GROUPS, Family, families_of
from .paths import TOOLS, cache_root
from .progress import ClusterError, Progress, Say

GO_MINIMUM = (1, 26)
_FLAGS = ("-trimpath",)
_LINKER = "-s -w"


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod requires of a module. ClusterError when it is not there."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"go.mod does not require {module}")
    return found.group(1)


def linker_flags(family: Family, *, version: str, kubernetes_version: str) -> str:
    """The -ldflags value: stripped, and stamped with the family's version."""

    def parts(text: str) -> tuple[str, str]:
        numbers = [*text.lstrip("v").split("."), "0", "0"]
        return numbers[0], numbers[1]

    major, minor = parts(version)
    kubernetes_major, kubernetes_minor = parts(kubernetes_version)
    stamp = family.stamp.format(
        version=version,
        major=major,
        minor=minor,
        kubernetes_major=kubernetes_major,
        kubernetes_minor=kubernetes_minor,
    )
    return f"{_LINKER} {stamp}".strip()


def cache_key(files: Mapping[str, bytes], *, flags: str, toolchain: str) -> str:
    """16 hex digits over the files' names and bytes, the flags and the toolchain, each length-prefixed so that no two
    different inputs run together."""
    digest = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            digest.update(len(part).to_bytes(8, "big") + part)
    for text in (flags, toolchain):
        digest.update(len(text).to_bytes(8, "big") + text.encode())
    return digest.hexdigest()[:16]


def family_files(directory: Path) -> dict[str, bytes]:
    """go.mod, go.sum and our own Go sources of one family."""
    names = sorted(p for p in directory.iterdir() if p.name in ("go.mod", "go.sum") or p.suffix == ".go")
    return {p.name: p.read_bytes() for p in names}


def go_toolchain(go: str = "go") -> str:
    """`go1.26.8 linux/amd64`. ClusterError says what to install when Go is missing or too old."""
    wanted = ".".join(map(str, GO_MINIMUM))
    remedy = f"Install Go {wanted} or newer (golang.org/dl, or your distribution's backports) and put it on PATH."
    executable = shutil.which(go)
    if executable is None:
        raise ClusterError(f"No Go toolchain: the embedded cluster builds Kubernetes from source. {remedy}")
    text = subprocess.run([executable, "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"go version go(\d+)\.(\d+)(\S*) (\S+)", text)
    if not found or (int(found.group(1)), int(found.group(2))) < GO_MINIMUM:
        raise ClusterError(f"{executable} is too old ({text.strip()}). {remedy}")
    return f"go{found.group(1)}.{found.group(2)}{found.group(3)} {found.group(4)}"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process at a time; the kernel drops the lock when its holder dies, so a crash never leaves it behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """Finds or builds programs. `ensure(groups)` first, then `path(program)`."""

    cache: Path = field(default_factory=cache_root)
    tools: Path = TOOLS
    say: Say = field(default_factory=Progress)
    _known: dict[str, Path] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ensure(self, *groups: str) -> None:
        """Build what these groups need and is not there yet (all groups when none is named).

        ClusterError names the log when a build fails.
        """
        todo = []
        for family, programs, purpose in families_of(groups or tuple(GROUPS)):
            directory = self._directory(family)
            missing = [p for p in programs if not (directory / p).exists()]
            if missing:
                todo.append((family, directory, missing, purpose))
        expected = sum(family.seconds for family, *_ in todo)
        if expected > 60:
            self.say(
                f"Building {', '.join(f.name for f, *_ in todo)} from source:"
                f" this takes about {max(1, round(expected / 60))} minutes the first time (2 cores), and nothing later."
            )
        for family, directory, missing, purpose in todo:
            with exclusive(self.cache / "bin" / f".{directory.name}.lock"):
                for program in missing:
                    if not (directory / program).exists():  # another caller may have built it while we waited
                        self._build(family, program, directory, purpose)

    def path(self, program: str) -> Path:
        """The built program. ClusterError when ensure() was not called for its group."""
        family = next((f for f in FAMILIES.values() if program in f.programs), None)
        if family is None:
            raise ClusterError(f"{program} is not one of the programs that are built here")
        found = self._directory(family) / program
        if not found.exists():
            raise ClusterError(f"{program} is not built yet; run `python -m tests.cluster build`")
        return found

    def version(self, family: str) -> str:
        return module_version((self.tools / family / "go.mod").read_text(), FAMILIES[family].module)

    def search_path(self, *programs: str) -> str:
        """A PATH value with the folders of these programs first."""
        folders = dict.fromkeys(str(self.path(p).parent) for p in programs)
        return ":".join([*folders, "/usr/sbin", "/usr/bin", "/sbin", "/bin"])

    def _directory(self, family: Family) -> Path:
        with self._lock:
            if family.name not in self._known:
                flags = " ".join((*_FLAGS, self._linker_flags(family)))
                key = cache_key(family_files(self.tools / family.name), flags=flags, toolchain=go_toolchain())
                self._known[family.name] = self.cache / "bin" / f"{family.name}-{key}"
            return self._known[family.name]

    def _linker_flags(self, family: Family) -> str:
        version = self.version(family.name) if family.module else "v0.0.0"
        return linker_flags(family, version=version, kubernetes_version=self.version("kubernetes"))

    def _build(self, family: Family, program: str, directory: Path, purpose: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / f"{program}.log"
        half = directory / f".{program}.{os.getpid()}"  # renamed when whole, so a killed build leaves no half program
        command = ["go", "build", *_FLAGS, "-ldflags", self._linker_flags(family), "-o", str(half)]
        command.append(family.programs[program])
        environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": os.environ.get("GOFLAGS", "") or "-buildvcs=false"}
        self.say(f"building {program} ({family.name}), for {purpose}")
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.tools / family.name, env=environ, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                while True:
                    try:
                        code = process.wait(timeout=30)
                        break
                    except subprocess.TimeoutExpired:
                        self.say(f"  still building {program}: {time.monotonic() - started:.0f} s")
            except BaseException:
                process.terminate()
                process.wait()
                half.unlink(missing_ok=True)
                raise
        if code != 0:
            half.unlink(missing_ok=True)
            raise ClusterError(f"building {program} failed; read {log}:\n{_tail(log)}")
        half.rename(directory / program)
        self.say(f"built {program} in {time.monotonic() - started:.0f} s")


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
