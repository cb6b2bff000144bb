"""A real registry, Debian's docker-registry, as a process of its own for a test: on a free port of the loopback address,
its data in a folder that the test gives."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from .packages import ensure_packages
from .progress import ClusterError, silent

USER, PASSWORD = "reader", "let-me-in"
# bcrypt of PASSWORD, the only kind that the registry takes; few rounds, since each request pays for them.
_HTPASSWD = f"{USER}:$2b$04$8wUO7p2rgB1FdXX2l4Y5nu6LhYM0ED42ecZpUB9/Zu0RqGMPYswJ2\n"
_LISTENING = re.compile(r"listening on (\d+\.\d+\.\d+\.\d+:\d+)")


class Registry:
    """directory     for its data and its configuration
    password         asks every client for USER and PASSWORD
    tokens           asks for tokens instead: realm, service, issuer and rootcertbundle, as its configuration has them
    certificate, key PEM files; None = plain http
    address          that it listens on
    """

    def __init__(
        self,
        directory: Path,
        *,
        password: bool = False,
        tokens: Mapping[str, str] | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        ensure_packages(silent, "docker-registry")
        self.data = directory / "data"
        http: dict[str, object] = {"addr": f"{address}:0"}
        if certificate is not None:
            http["tls"] = {"certificate": str(certificate), "key": str(key)}
        # JSON is YAML as well.
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            "http": http,
        }
        if password:
            (directory / "htpasswd").write_text(_HTPASSWD)
            configuration["auth"] = {"htpasswd": {"realm": "models", "path": str(directory / "htpasswd")}}
        if tokens is not None:
            configuration["auth"] = {"token": dict(tokens)}
        self._file = directory / "registry.json"
        self._file.write_text(json.dumps(configuration))
        self._process: subprocess.Popen[str] | None = None
        self.host = ""  # ADDRESS:PORT while it runs

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Answers when it listens. After a stop it has what it had, under another port."""
        self._process = process = subprocess.Popen(
            ["docker-registry", "serve", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if found := _LISTENING.search(line):
                self.host = found[1]
                # A full pipe would hold it up.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                return
        raise ClusterError(f"docker-registry ended: {''.join(seen)[-800:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
