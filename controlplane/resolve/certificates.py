"""Certificates, keys and authorities that manifests name, looked at before Envoy does: it would refuse them as a whole.

Text in, what is wrong out. Whether a certificate is valid today is not asked: that changes without an edit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import (
    Certificate,
    DNSName,
    DuplicateExtension,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    UnsupportedGeneralNameType,
    load_pem_x509_certificates,
)
from cryptography.x509.oid import NameOID, PublicKeyAlgorithmOID

from controlplane.resolve.findings import Findings, Path

_SMALLEST_RSA = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_KINDS = "RSA, P-256, P-384, P-521 and Ed25519"
_EXPLICIT_CURVE = bytes.fromhex("06072a8648ce3d0101")  # id-prime-field (RFC 3279, 2.3.5): named curves have none
_IN_MID_LINE = re.compile(r"(?m)^.+-----BEGIN ")
_LINES = "begin a line with each -----BEGIN: no space or byte order mark stands before it"
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


def report_nameless(path: Path, findings: Findings, certificate: Named) -> None:
    """Adds that the certificate of a listener names nobody: Envoy takes such a one for services alone."""
    chain = _certificates(certificate.pem)
    if chain and not _names_someone(chain[0]):
        findings.add(
            (*path, "certificate"),
            f'the certificate in "{certificate.name}" has neither a name nor an address',
            hint="issue it for the hosts of the gateway: -addext subjectAltName=DNS:api.example.com",
            code="tls",
        )


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
    if _IN_MID_LINE.search(key.pem):
        yield "key", f'Envoy cannot read the key in "{key.name}"', _LINES
    match private:
        case rsa.RSAPrivateKey() if private.key_size < _SMALLEST_RSA:
            yield "key", f'the key in "{key.name}" has {private.key_size} bits', "Envoy takes RSA from 2048 bits on"
        case ec.EllipticCurvePrivateKey() if private.curve.name not in _CURVES:
            yield "key", f'the key in "{key.name}" is of {private.curve.name}', "Envoy takes P-256, P-384 and P-521"
        case rsa.RSAPrivateKey() | ec.EllipticCurvePrivateKey() | ed25519.Ed25519PrivateKey():
            pass
        case _:
            kind = type(private).__name__.strip("_").removesuffix("PrivateKey")
            yield "key", f'the key in "{key.name}" is of the kind {kind}', f"Envoy takes {_KINDS}"
    if chain and (form := _unusual_form(chain[0])):
        yield "certificate", f'the key of the certificate in "{certificate.name}" is {form}', f"Envoy takes {_KINDS}"
    if chain and not _is_of(private, chain[0]):
        yield (
            "key",
            f'the key in "{key.name}" is not that of the certificate in "{certificate.name}"',
            "name the key that it was issued for; a chain begins with the gateway's own certificate",
        )


def _is_of(private: PrivateKeyTypes, certificate: Certificate) -> bool:
    try:
        return private.public_key() == certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a key of a kind that nobody here can read
        return False


def _unusual_form(certificate: Certificate) -> str:
    """How the public key is written where Envoy does not read it, although it is of a kind that it takes."""
    if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        return "for RSA-PSS alone"
    if _EXPLICIT_CURVE in certificate.tbs_certificate_bytes:
        return "of a curve that is written out, not named"
    return ""


def _names_someone(certificate: Certificate) -> bool:
    try:
        if certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            return True
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return False
    except (ValueError, DuplicateExtension, UnsupportedGeneralNameType):  # what cannot be read may be a name
        return True
    return any(isinstance(name, DNSName | UniformResourceIdentifier | IPAddress) for name in names)


@lru_cache(_MEMO)
def _certificates(pem: str) -> tuple[Certificate, ...]:
    """The certificates of a file; none where it holds none, or one that cannot be read."""
    if _IN_MID_LINE.search(pem):
        return ()
    try:
        return tuple(load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return ()


def _of_certificate(file: Named) -> str:
    is_key = "PRIVATE KEY-----" in file.pem and "CERTIFICATE-----" not in file.pem
    if not is_key and _IN_MID_LINE.search(file.pem):
        return _LINES
    return "it holds a private key" if is_key else "write PEM: -----BEGIN CERTIFICATE-----"
