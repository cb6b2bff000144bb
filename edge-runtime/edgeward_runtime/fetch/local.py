"""file:// sources: a disk or a network folder mounted into the pod."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.source import Opened, Source
from edgeward_runtime.store.partial import Origin


def source(address: str) -> Source:
    @contextmanager
    def opened(offset: int, _origin: Origin) -> Iterator[Opened]:
        path = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path))
        try:
            if not path.is_file():  # a fifo or a device would block or never end
                raise FileNotFoundError
            file = path.open("rb")
        except FileNotFoundError:
            message = f"{refusals.shown(address)} is not there or no file"
            raise refusals.refusal("NotFound", message) from None
        except OSError as error:
            raise refusals.unreachable(address, error.strerror or str(error)) from None
        with file:
            total = os.fstat(file.fileno()).st_size
            start = offset if offset <= total else 0
            file.seek(start)
            yield Opened(reader=file, offset=start, total=total)

    return Source(address=address, open=opened, part=lambda start, _end: opened(start, Origin()))
