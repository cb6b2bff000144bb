"""What outlives a process: small JSON files of each job that uses the store.

    jobs/NAMESPACE/NAME/last-good.json    what served last, for a boot without network or with a config that fails
    jobs/NAMESPACE/NAME/previous.json     what served before that, for the way back
    jobs/NAMESPACE/NAME/refused.json      entries not to be tried again

A record is a help, never a condition of serving: one that cannot be read counts as none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from edgeward_runtime.store import disk

log = logging.getLogger(__name__)

LAST_GOOD, PREVIOUS = "last-good", "previous"


class RecordFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, namespace: str, job: str, name: str) -> dict[str, Any]:
        path = self._path(namespace, job, name)
        try:
            document = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            log.warning("record cannot be read", extra={"record": name, "error": str(error)})
            return {}
        return document if isinstance(document, dict) else {}

    def write(self, namespace: str, job: str, name: str, document: Mapping[str, Any]) -> bool:
        """False if the disk does not let us, which must not stop the server."""
        try:
            content = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
            disk.replace(self._path(namespace, job, name), content)
        except OSError as error:
            log.warning("record cannot be written", extra={"record": name, "error": str(error)})
            return False
        return True

    def write_good(self, namespace: str, job: str, live: Mapping[str, Mapping[str, Any]]) -> bool:
        """Notes what serves now, by model; where that is another digest than before, what served before is the
        previous one. If that was a step back, it says so: such a version is kept, but nobody falls back to it."""
        before = self.read(namespace, job, LAST_GOOD)
        kept = self.read(namespace, job, PREVIOUS)
        previous = {name: kept[name] for name in live if name in kept}
        for name, entry in live.items():
            old = before.get(name)
            if isinstance(old, dict) and old.get("digest") != entry["digest"]:
                back = kept.get(name)
                gone_back = (
                    isinstance(back, dict) and back.get("digest") == entry["digest"] and not back.get("rolledBack")
                )
                previous[name] = {**old, "rolledBack": True} if gone_back else old
        if previous != kept:
            self.write(namespace, job, PREVIOUS, previous)
        return before == live or self.write(namespace, job, LAST_GOOD, live)

    def pinned(self) -> dict[str, str]:
        """Digest -> the job (NAMESPACE/NAME) that may need it: current and previous of every job."""
        return {digest: job for job, digest in self._digests()}

    def _digests(self) -> Iterator[tuple[str, str]]:
        for name in (PREVIOUS, LAST_GOOD):
            for path in self._folder.glob(f"*/*/{name}.json"):
                job = f"{path.parent.parent.name}/{path.parent.name}"
                for entry in self.read(path.parent.parent.name, path.parent.name, name).values():
                    if isinstance(entry, dict) and isinstance(entry.get("digest"), str):
                        yield job, entry["digest"]

    def _path(self, namespace: str, job: str, name: str) -> Path:
        return self._folder / namespace / job / f"{name}.json"
