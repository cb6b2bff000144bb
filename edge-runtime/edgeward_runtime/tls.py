"""TLS on the serving ports: the server's certificate, and whose certificates clients must show. Imported only where it is
asked for: ssl takes memory that a server without it never uses."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from edgeward_runtime.guard import stamp

log = logging.getLogger(__name__)


class Tls:
    """certificate, key   PEM files of the server
    client_ca          PEM file: a client needs a certificate by one of these; None: it needs none
    optional           a client may come without one, for open paths
    """

    def __init__(self, *, certificate: Path, key: Path, client_ca: Path | None, optional: bool) -> None:
        """OSError (ssl.SSLError is one) if the files do not fit together."""
        self.certificate, self.key, self.client_ca = certificate, key, client_ca
        self._optional = optional
        self._stamps = self.stamps()
        self.context = self._load()

    def renew(self) -> bool:
        """Whether the files have changed and make a new `context`. Those that do not fit together, as in the middle of a
        change, leave the last one in force."""
        seen = self.stamps()
        if seen == self._stamps:
            return False
        self._stamps = seen
        try:
            self.context = self._load()
        except OSError as error:
            log.error("the certificate cannot be read, the last one holds", extra={"error": str(error)})
            return False
        log.info("certificate read again")
        return True

    def stamps(self) -> list[tuple[int, int, int] | None]:
        """Other ones once a file has changed."""
        return [stamp(path) for path in (self.certificate, self.key, self.client_ca) if path is not None]

    def _load(self) -> ssl.SSLContext:
        # Not create_default_context(): it would trust the system's authorities for clients.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["http/1.1"])
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL if self._optional else ssl.CERT_REQUIRED
        return context
