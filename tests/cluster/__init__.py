"""The embedded real cluster: Kubernetes from its own sources, for tests and the demo. See docs/cluster.md."""

from .binaries import Binaries
from .cluster import Cluster, FileServer, Status
from .controlplane import ControlPlane, temporary_directory
from .images import IMAGES, ImageBuilder
from .plan import NodeSpec, default_nodes
from .progress import ClusterError, Progress, silent, wait_for

__all__ = [
    "IMAGES",
    "Binaries",
    "Cluster",
    "ClusterError",
    "ControlPlane",
    "FileServer",
    "ImageBuilder",
    "NodeSpec",
    "Progress",
    "Status",
    "default_nodes",
    "silent",
    "temporary_directory",
    "wait_for",
]
