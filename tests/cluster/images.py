"""Builds the project's two images, with buildah (offline, on a base made here) or else with docker.

With buildah everything that the build needs is prepared on the host: the base by mmdebstrap, the wheels by pip with
their hashes. Archives are cached by everything that went into them, so an unchanged tree costs a hash of its files.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .binaries import cache_key, exclusive
from .packages import ensure_packages
from .paths import REPOSITORY, cache_root
from .progress import ClusterError, Progress, Say

BASE_TAG = "localhost/edgeward-base:bookworm"
PYTHON = "3.11"  # bookworm's; also the oldest that is supported
_KEEP_S = 3600  # an older archive of the same image is deleted; a cluster may just be loading a newer one
_GLIBC = 36  # bookworm has 2.36, so wheels up to manylinux_2_36 run
_BASE_RECIPE = (
    "mmdebstrap", "--mode=root", "--variant=essential", "--include=python3,ca-certificates,libstdc++6",
    "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    # What only installing packages or reading Python's own manual needs: full Perl, character tables, 2to3.
    '--customize-hook=cd "$1" && rm -rf usr/share/perl usr/lib/*/perl usr/lib/*/libperl.so* usr/lib/*/gconv'
    " usr/lib/python3*/pydoc_data usr/lib/python3*/lib2to3 var/cache/debconf/*-old var/log/*.log",
    "bookworm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Image:
    """package, beside: the folders copied into the image, relative to the repository."""

    name: str
    tag: str
    dockerfile: str
    requirements: str
    package: str
    beside: tuple[str, ...] = ()


IMAGES: dict[str, Image] = {
    image.name: image
    for image in (
        Image(
            name="operator",
            tag="localhost/edgeward-operator:dev",
            dockerfile="operator/Dockerfile",
            requirements="requirements/operator.txt",
            package="operator/edgeward",
            beside=("edge-runtime/edgeward_runtime",),
        ),
        Image(
            name="runtime",
            tag="localhost/edgeward-runtime:dev",
            dockerfile="edge-runtime/Dockerfile",
            requirements="requirements/runtime.txt",
            package="edge-runtime/edgeward_runtime",
        ),
    )
}


def sources(image: Image, root: Path) -> dict[str, bytes]:
    """Path -> bytes of all that the Dockerfile copies, and the Dockerfile. Compiled files are left out: the image
    makes its own."""
    files = [root / image.dockerfile, root / image.requirements]
    for folder in (image.package, *image.beside):
        files += [p for p in sorted((root / folder).rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def wheel_platforms(machine: str, glibc: int = _GLIBC) -> list[str]:
    """The platform tags that run on this base, newest first; pip matches exact tags only."""
    old = ["manylinux2014", "manylinux2010", "manylinux1"] if machine == "x86_64" else ["manylinux2014"]
    return [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)] + [f"{tag}_{machine}" for tag in old]


class ImageBuilder:
    """build() returns archives that Cluster.load_image takes.

    tool   buildah or docker; None takes buildah, installed if need be and possible, else docker
    base   a base image of your own (with Python and pip); None with buildah makes one from Debian packages
    """

    def __init__(
        self,
        *,
        tool: str | None = None,
        base: str | None = None,
        root: Path = REPOSITORY,
        cache: Path | None = None,
        say: Say | None = None,
    ):
        self.root, self.base = root, base
        self.cache = (cache or cache_root()).absolute()
        self.say = say or Progress()
        self._tool = tool

    def build(self, *names: str, tags: dict[str, str] | None = None) -> dict[str, Path]:
        """Build these images (default: both) and return name -> archive. `tags` overrides the usual tag of a name.

        ClusterError names the log when a build fails.
        """
        tool = self._choose_tool()
        found = {}
        with exclusive(self.cache / "images" / ".lock"):
            for name in names or tuple(IMAGES):
                found[name] = self._build(IMAGES[name], (tags or {}).get(name, IMAGES[name].tag), tool)
        return found

    def _choose_tool(self) -> str:
        if self._tool:
            return self._tool
        if shutil.which("buildah") is None and shutil.which("docker") is not None:
            return "docker"
        ensure_packages(self.say, "buildah", "ca-certificates", *([] if self.base else ["mmdebstrap"]))
        return "buildah"

    def _build(self, image: Image, tag: str, tool: str) -> Path:
        base = self.base or (self._base_key() if tool == "buildah" else "")
        key = cache_key(
            {**sources(image, self.root), "pip": _pip_lock().read_bytes()},
            flags=f"{tag} {base} {tool}",
            toolchain=PYTHON,
        )
        archive = self.cache / "images" / f"{image.name}-{key}.tar"
        if archive.exists():
            self.say(f"{tag} is unchanged: {archive}")
            return archive
        started = time.monotonic()
        self.say(f"building {tag} with {tool}")
        half = archive.with_name(f".{archive.name}.{os.getpid()}")
        with self._context(image, wheels=tool == "buildah") as context, _no_leftover(half):
            log = self.cache / "images" / f"{image.name}.log"
            if tool == "docker":
                base_argument = [f"--build-arg=BASE={self.base}"] if self.base else []
                _logged(["docker", "build", "-f", image.dockerfile, "-t", tag, *base_argument, "."], context, log)
                _logged(["docker", "save", "-o", str(half), tag], context, log, append=True)
            else:
                base_image = self.base or self._make_base()
                command = ["buildah", "bud", "--isolation=chroot", "--layers=false", f"--build-arg=BASE={base_image}"]
                with replacing(tag):
                    _logged([*command, "-f", image.dockerfile, "-t", tag, "."], context, log)
                _logged(["buildah", "push", "-q", tag, f"docker-archive:{half}:{tag}"], context, log, append=True)
            half.rename(archive)
        for old in archive.parent.glob(f"{image.name}-*.tar"):
            if old != archive and time.time() - old.stat().st_mtime > _KEEP_S:
                old.unlink()
        self.say(f"built {tag} in {time.monotonic() - started:.0f} s, {archive.stat().st_size / 1e6:.0f} MB: {archive}")
        return archive

    @contextlib.contextmanager
    def _context(self, image: Image, *, wheels: bool) -> Iterator[Path]:
        """A build context that holds only what the Dockerfile copies, and the wheels."""
        (self.cache / "images").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache / "images", prefix=".context-") as folder:
            context = Path(folder)
            for name, data in sources(image, self.root).items():
                (context / name).parent.mkdir(parents=True, exist_ok=True)
                (context / name).write_bytes(data)
            if wheels:
                (context / "wheels").mkdir()
                for wheel in self._wheels(image).iterdir():
                    os.link(wheel, context / "wheels" / wheel.name)
            yield context

    def _wheels(self, image: Image) -> Path:
        """A folder with the wheels of the image's requirements, and pip's. Downloaded with their hashes, once."""
        files = {"requirements": (self.root / image.requirements).read_bytes(), "pip": _pip_lock().read_bytes()}
        key = cache_key(files, flags=f"{platform.machine()} {_GLIBC}", toolchain=PYTHON)
        folder = self.cache / "wheels" / f"{image.name}-{key}"
        if folder.exists():
            return folder
        self.say(f"downloading the wheels of {image.requirements}")
        half = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        target = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", "--no-deps"]
        target += [f"--platform={tag}" for tag in wheel_platforms(platform.machine())]
        log = self.cache / "wheels" / f"{image.name}.log"
        for requirements in (self.root / image.requirements, _pip_lock()):
            command = [sys.executable, "-m", "pip", "download", "-q", "--require-hashes", "--disable-pip-version-check"]
            _logged([*command, *target, "-d", str(half), "-r", str(requirements)], self.root, log)
        half.rename(folder)
        return folder

    def _base_key(self) -> str:
        return cache_key({}, flags=" ".join(_BASE_RECIPE), toolchain=platform.machine())

    def _make_base(self) -> str:
        """The base image's tag, in buildah's storage. Made again only when the recipe or the storage changed."""
        key = self._base_key()
        tag = f"{BASE_TAG}-{key}"
        if subprocess.run(["buildah", "inspect", "--type=image", tag], capture_output=True).returncode == 0:
            return tag
        archive = self.cache / "images" / f"base-{key}.tar"
        log = self.cache / "images" / "base.log"
        log.unlink(missing_ok=True)
        if not archive.exists():
            self.say("making the images' base from Debian packages (about 30 s, once)")
            half = archive.with_name(f".{archive.name}.{os.getpid()}.tar")
            try:
                _logged([*_BASE_RECIPE, str(half)], self.cache, log)
                half.rename(archive)
            finally:
                half.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache / "images", prefix=".base-") as folder:
            context = Path(folder)
            os.link(archive, context / "base.tar")
            (context / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
            _logged(["buildah", "bud", "--isolation=chroot", "-t", tag, "-t", BASE_TAG, "."], context, log, append=True)
        return tag


@contextlib.contextmanager
def replacing(tag: str) -> Iterator[None]:
    """Whoever builds a tag anew with buildah leaves the old image without a name, some 250 MB for nobody: it goes.
    An image that has another name still, or a container, stays."""
    before = _listed(tag)
    yield
    for image in before & _listed("--filter=dangling=true"):
        subprocess.run(["buildah", "rmi", image], capture_output=True)


def _listed(*which: str) -> set[str]:
    """Ids of the images in buildah's storage; none when there is no such tag."""
    done = subprocess.run(["buildah", "images", "--quiet", "--no-trunc", *which], capture_output=True, text=True)
    return set(done.stdout.split())


@contextlib.contextmanager
def _no_leftover(path: Path) -> Iterator[None]:
    path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _pip_lock() -> Path:
    return Path(__file__).resolve().parent / "pip.txt"


def _logged(command: Sequence[str], cwd: Path, log: Path, *, append: bool = False) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab" if append else "wb") as output:
        done = subprocess.run(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise ClusterError(f"{' '.join(command[:3])} failed; read {log}:\n{tail}")
