from edgeward_runtime.store.disk import disk_errors
from edgeward_runtime.store.store import Store

__all__ = ["Store", "disk_errors"]
