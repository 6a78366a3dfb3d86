"""Certificates, keys and authorities that manifests name, looked at before Envoy does: it would refuse them as a whole.

Text in, what is wrong out. Whether a certificate is valid today is not asked: that changes without an edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from controlplane.resolve.findings import Findings, Path

_SMALLEST_RSA = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_MEMO = 256  # files; looking at a key of 4,096 bits takes longer than all else of an edit


@dataclass(frozen=True, slots=True)
class Named:
    """A file by its name in the manifest, and what it holds."""

    name: str
    pem: str = field(repr=False)


def named(name: str | None, pem: str | None) -> Named | None:
    """What is known of a file; nothing where none is named."""
    return Named(name, pem) if name is not None and pem is not None else None


def report(
    path: Path,
    findings: Findings,
    *,
    certificate: Named | None = None,
    key: Named | None = None,
    ca: Named | None = None,
) -> None:
    """Adds what is wrong with the files of the `tls` at `path`, each at its own field."""
    if ca is not None and not _certificates(ca.pem):
        findings.add((*path, "ca"), f'the file "{ca.name}" {_NO_CERTIFICATE}', hint=_of_certificate(ca), code="tls")
    if certificate is None or key is None:
        return
    for where, message, hint in _pair(certificate, key):
        findings.add((*path, where), message, hint=hint, code="tls")


_NO_CERTIFICATE = "is no certificate, or one of its certificates cannot be read"


@lru_cache(_MEMO)
def _pair(certificate: Named, key: Named) -> tuple[tuple[str, str, str], ...]:
    return tuple(_wrong_with(certificate, key))


def _wrong_with(certificate: Named, key: Named) -> Iterator[tuple[str, str, str]]:
    """(field, what is wrong, what would be right)"""
    chain = _certificates(certificate.pem)
    if not chain:
        yield "certificate", f'the file "{certificate.name}" {_NO_CERTIFICATE}', _of_certificate(certificate)
    try:
        private = load_pem_private_key(key.pem.encode(), password=None)
    except TypeError:
        yield (
            "key",
            f'the key in "{key.name}" is encrypted, and nobody is there to give its password',
            f"write it without: openssl pkey -in {key.name} -out plain.key",
        )
        return
    except (ValueError, UnsupportedAlgorithm):
        yield "key", f'the file "{key.name}" is no private key', "write PEM: -----BEGIN PRIVATE KEY-----"
        return
    match private:
        case rsa.RSAPrivateKey() if private.key_size < _SMALLEST_RSA:
            yield "key", f'the key in "{key.name}" has {private.key_size} bits', "Envoy takes RSA from 2048 bits on"
        case ec.EllipticCurvePrivateKey() if private.curve.name not in _CURVES:
            yield "key", f'the key in "{key.name}" is of {private.curve.name}', "Envoy takes P-256, P-384 and P-521"
        case _:
            pass
    if chain and private.public_key() != chain[0].public_key():
        yield (
            "key",
            f'the key in "{key.name}" is not that of the certificate in "{certificate.name}"',
            "name the key that it was issued for; a chain begins with the gateway's own certificate",
        )


@lru_cache(_MEMO)
def _certificates(pem: str) -> tuple[Certificate, ...]:
    """The certificates of a file; none where it holds none, or one that cannot be read."""
    try:
        return tuple(load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return ()


def _of_certificate(file: Named) -> str:
    is_key = "PRIVATE KEY-----" in file.pem and "CERTIFICATE-----" not in file.pem
    return "it holds a private key" if is_key else "write PEM: -----BEGIN CERTIFICATE-----"
