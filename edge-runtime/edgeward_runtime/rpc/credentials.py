"""TLS for gRPC with the files that REST has, looked at again for every connection."""

from __future__ import annotations

import logging

import grpc

from edgeward_runtime.tls import Tls

log = logging.getLogger(__name__)


def credentials(tls: Tls) -> grpc.ServerCredentials:
    """A client certificate, where one is asked for at all, is asked of every gRPC client: grpcio knows no other way, so
    nothing is open to those without."""
    seen = tls.stamps()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        now = tls.stamps()
        if now == seen:
            return None
        seen = now
        try:
            return _configuration(tls)
        except OSError as error:
            log.error("the certificate cannot be read, the last one holds", extra={"error": str(error)})
            return None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(tls), renewed, require_client_authentication=tls.client_ca is not None
    )


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    authorities = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    return grpc.ssl_server_certificate_configuration(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())], root_certificates=authorities
    )
