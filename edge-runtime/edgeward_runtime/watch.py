"""Notices a changed config file by polling it: a ConfigMap volume is a chain of symlinks that the kubelet swaps, which
inotify on the file does not see."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_BYTES = 4 * 2**20  # a ConfigMap holds 1 MiB


class ConfigWatch:
    def __init__(self, directory: Path) -> None:
        self._file = directory / "models.json"
        self._seen: tuple[int, ...] | None = None

    def changed(self) -> bytes | None:
        """The file's bytes if it is another file than at the last call, else None. A file that is missing or
        unreadable is no change: what was wanted last goes on being wanted."""
        try:
            stat = os.stat(self._file)
            seen = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return None
            with self._file.open("rb") as file:
                text = file.read(_MAX_BYTES)
        except OSError:
            return None
        self._seen = seen
        return text
