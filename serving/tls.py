"""TLS for gRPC from files, followed when the files change.

A server looks at its files when a client connects, a client when it connects: a rotated certificate is in use from the
next connection, with no restart and no watcher. Files that are unreadable for a moment, or do not belong together yet,
leave the last ones in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

_log = structlog.get_logger("serving.tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. With `ca`, the other side must present a certificate that this authority signed."""

    certificate: Path
    key: Path
    ca: Path | None = None
    flags: tuple[str, str, str] = ("certificate", "key", "authority")
    """What the three are called by who gives them."""

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """(certificate chain, key, authority). Raises OSError."""
        certificate, key, ca = self.flags
        return (
            _read(certificate, self.certificate),
            _read(key, self.key),
            _read(ca, self.ca) if self.ca is not None else None,
        )

    def check(self, held: tuple[bytes, bytes, bytes | None]) -> None:
        """Raises OSError saying which file of what was read cannot be used, and why: gRPC says neither."""
        certificate, key, ca = held
        certificate_flag, key_flag, ca_flag = self.flags
        shown = _public_key(f"{certificate_flag} {self.certificate}", certificate)
        if ca is not None:
            _public_key(f"{ca_flag} {self.ca}", ca)
        try:
            own = load_pem_private_key(key, password=None).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm) as failure:  # a TypeError where it wants a password
            raise OSError(f"{key_flag} {self.key}: not a private key in PEM without a password") from failure
        if own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != shown:
            raise OSError(f"{key_flag} {self.key}: not the key of the certificate {self.certificate}")


def _read(flag: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as failure:
        raise OSError(f"{flag} {file}: {failure.strerror}") from failure


def _public_key(what: str, pem: bytes) -> bytes:
    """Of the first certificate; all of them can be read."""
    try:
        first, *_ = load_pem_x509_certificates(pem)
        return first.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as failure:
        raise OSError(f"{what}: not a certificate in PEM") from failure


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files; client certificates are required when an authority is given.

    Raises OSError naming the file that cannot be used.
    """
    held = files.read()
    files.check(held)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(held), _follow(files, held), require_client_authentication=files.ca is not None
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials of a client: made anew for every connection attempt."""
    certificate, key, ca = files.read()
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)


def _follow(files: TlsFiles, held: tuple[bytes, bytes, bytes | None]) -> Callable[[], object]:
    seen = held

    def changed() -> object:
        """gRPC calls this from its own thread at every handshake; None keeps what is in use."""
        nonlocal seen
        try:
            now = files.read()
            if now == seen:
                return None
            files.check(now)
        except OSError as failure:
            _log.warning("tls files unusable, keeping the last ones", error=str(failure))
            return None
        seen = now
        _log.info("tls files changed", certificate_sha256=hashlib.sha256(now[0]).hexdigest()[:16])
        return _configuration(now)

    return changed


def _configuration(held: tuple[bytes, bytes, bytes | None]) -> object:
    certificate, key, ca = held
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)
