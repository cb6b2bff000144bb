"""What a node takes from the machine: control groups, mounts and kernel settings; and giving all of it back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .plan import cpu_quota
from .processes import start_time
from .progress import ClusterError

CGROUPS = Path("/sys/fs/cgroup")
# Each kubelet and containerd takes a few instances; three clusters side by side run out of Debian's 128.
_INOTIFY = "fs/inotify/max_user_instances"
_INOTIFY_LEAST = 1024
# The kubelet sets these for itself and would leave them so; the machine gets its own values back at the end.
_KUBELET_SETTINGS = (
    _INOTIFY,
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Folders that kubelet, containerd, the CNI plugins and ip-netns make at fixed places, children first.
_FOLDERS = (
    "/run/containerd/s",
    "/run/containerd",
    "/run/edgeward",
    "/run/netns",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)


def require_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "The embedded cluster makes network namespaces and control groups, so it needs root: use sudo."
        )


def machine() -> tuple[int, int]:
    """(cores, MiB of memory), as the kubelet sees them."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return os.cpu_count() or 1, pages // (1024 * 1024)


def _hierarchies() -> list[Path]:
    """The roots under which a group must exist: one for cgroup v2, one per controller for v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        target = Path(fields[4])
        if kind == "cgroup" and target.parent == CGROUPS and not target.is_symlink():
            found.append(target)
    if not found:
        raise ClusterError("no control groups are mounted under /sys/fs/cgroup")
    return found


def make_cgroup(name: str, *, cpu_millis: int) -> None:
    """The root group of one node, holding all its pods together to so much CPU."""
    quota = cpu_quota(cpu_millis)
    for root in _hierarchies():
        group = root / name
        if root == CGROUPS:
            _enable_controllers(root)
            group.mkdir(exist_ok=True)
            _enable_controllers(group)
            (group / "cpu.max").write_text(f"{quota} 100000")
            continue
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty and takes no process until filled
            if (group / setting).exists() and not (group / setting).read_text().strip():
                (group / setting).write_text((root / setting).read_text())
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text(str(quota))


def _enable_controllers(group: Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:  # one that cannot be handed down; the kubelet says which of those it misses
            continue


def _groups(name: str) -> Iterator[Path]:
    """Every group of the node, children before parents. Beside v1's controllers runc uses the v2 hierarchy, if mounted."""
    for root in dict.fromkeys([*_hierarchies(), CGROUPS / "unified"]):
        top = root / name
        if top.is_dir():
            for directory, _, _ in os.walk(top, topdown=False):
                yield Path(directory)


def cgroup_processes(name: str) -> dict[int, int]:
    """pid -> start time of everything in the node's groups: its containers, also those whose shim has died."""
    found: dict[int, int] = {}
    for group in _groups(name):
        try:
            pids = (group / "cgroup.procs").read_text().split()
        except OSError:
            continue
        for pid in map(int, pids):
            start = start_time(pid)
            if start is not None:
                found[pid] = start
    return found


def use_pods_cpu(name: str) -> None:
    """Use a few milliseconds of CPU in the node's pods' group.

    cAdvisor leaves out a counter that is still 0, so a node that never ran a pod would have no series at all. Real
    nodes always run some; these need not. (cgroup v2 lets no process into an inner group; there the first pod does it.)
    """
    for controller in ("cpuacct", "cpu,cpuacct"):
        group = CGROUPS / controller / name / "kubepods"
        if group.is_dir():
            script = 'echo $$ > "$0/cgroup.procs"; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done'
            subprocess.run(["sh", "-c", script, str(group)], capture_output=True)
            return


def remove_cgroup(name: str, *, keep_top: bool = False) -> None:
    """Remove the groups; their processes must have ended. A group stays busy for a moment after its last one."""
    deadline = time.monotonic() + 5
    while True:
        left = None
        for group in _groups(name):
            if keep_top and group.name == name and group.parent in _hierarchies():
                continue
            try:
                group.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                left = error
        if left is None:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"control group {name} cannot be removed: {left}")
        time.sleep(0.1)


def mount_memory(directory: Path) -> None:
    """A memory file system, unless it is there already.

    containerd flushes each layer of an image to disk before it unpacks it, on every node: that, not the unpacking, is
    what makes loading an image slow. The layers are dropped after unpacking, so little memory stays in use.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(directory):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(directory)], check=True, capture_output=True
        )


def unmount_below(*directories: Path) -> None:
    """Unmount everything under these folders, deepest first."""
    for _ in range(5):
        targets = []
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            target = line.split()[4].encode().decode("unicode_escape")
            if any(target == str(d) or target.startswith(f"{d}/") for d in directories):
                targets.append(target)
        if not targets:
            return
        for target in reversed(targets):
            subprocess.run(["umount", "--lazy", target], capture_output=True)
    raise ClusterError(f"cannot unmount {targets[0]} and {len(targets) - 1} more")


def remember_settings(path: Path) -> None:
    """Note the kernel settings, and which folders are not there, once, before the first cluster starts."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in _KUBELET_SETTINGS:
        file = Path("/proc/sys") / name
        if file.exists():
            found[name] = file.read_text().strip()
    absent = [folder for folder in _FOLDERS if not Path(folder).exists()]
    path.write_text(json.dumps({"settings": found, "absent": absent}))
    if int(found.get(_INOTIFY, _INOTIFY_LEAST)) < _INOTIFY_LEAST:
        with contextlib.suppress(OSError):  # not ours to set on this machine; a single cluster fits without
            (Path("/proc/sys") / _INOTIFY).write_text(str(_INOTIFY_LEAST))


def restore_settings(path: Path) -> None:
    """Put them back, after the last cluster ended, and remove the folders that were not there and are empty."""
    if not path.exists():
        return
    noted = json.loads(path.read_text())
    for name, value in noted["settings"].items():
        if name not in _KUBELET_SETTINGS:
            continue
        file = Path("/proc/sys") / name
        try:
            if file.read_text().strip() != value:
                file.write_text(value)
        except OSError:  # not ours to set on this machine; then the kubelet could not either
            continue
    for folder in _FOLDERS:
        if folder in noted["absent"] and Path(folder).is_dir():
            if folder == "/run/netns" and not any(Path(folder).iterdir()):
                subprocess.run(["umount", folder], capture_output=True)  # ip-netns(8) mounts it onto itself
            if folder == "/var/lib/kubelet/device-plugins":
                (Path(folder) / "kubelet.sock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    path.unlink()
