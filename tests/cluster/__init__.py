"""The embedded real cluster: Kubernetes from its own sources, on this machine, for tests and the demo. See docs/cluster.md."""

from .binaries import Binaries
from .controlplane import ControlPlane, temporary_directory
from .progress import ClusterError, Progress, silent, wait_for

__all__ = ["Binaries", "ClusterError", "ControlPlane", "Progress", "silent", "temporary_directory", "wait_for"]
