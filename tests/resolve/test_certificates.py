"""Certificates and keys that Envoy would refuse are problems of the manifest, at the field that names the file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

LISTENER = "gateway: {listeners: [{port: 8443, tls: {certificate: a.crt, key: a.key}}]}\n"
SERVICE = "services: {a: {endpoints: ['https://a:1'], tls: {certificate: a.crt, key: a.key}}}\n"
TRUST = "services: {a: {endpoints: ['https://a:1'], tls: {ca: a.crt}}}\n"
KEY = ec.generate_private_key(ec.SECP256R1())
HALF = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def certificate(key: Key) -> str:
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")]), datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))  # whether it is valid today is not asked
    )
    signed = built.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def pem(
    key: Key, encryption: KeySerializationEncryption | None = None, form: PrivateFormat = PrivateFormat.PKCS8
) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def problems(folder: Path, manifest: str, crt: str, key: str) -> list[str]:
    (folder / "a.yaml").write_text(manifest)
    (folder / "a.crt").write_text(crt)
    (folder / "a.key").write_text(key)
    built = build(folder, {}, Deployment())
    return [] if isinstance(built, Built) else [str(problem) for problem in built.problems]


def place(manifest: str, field: str) -> str:
    return f"a.yaml:1:{manifest.index(f'{field}: a.') + len(field) + 3}: "


@pytest.mark.parametrize("manifest", [LISTENER, SERVICE], ids=["listener", "service"])
@pytest.mark.parametrize(
    ("crt", "key", "field", "problem"),
    [
        pytest.param(
            certificate(KEY), pem(ec.generate_private_key(ec.SECP256R1())), "key", "is not that of", id="another key"
        ),
        pytest.param(
            certificate(ed25519.Ed25519PrivateKey.generate()), pem(KEY), "key", "is not that of", id="of another kind"
        ),
        pytest.param(
            certificate(KEY), pem(KEY, BestAvailableEncryption(b"x")), "key", "is encrypted", id="an encrypted key"
        ),
        pytest.param(
            certificate(KEY),
            pem(KEY, BestAvailableEncryption(b"x"), PrivateFormat.TraditionalOpenSSL),
            "key",
            "is encrypted",
            id="a key encrypted in the old form",
        ),
        pytest.param(certificate(KEY), "", "key", "is no private key", id="an empty key"),
        pytest.param(certificate(KEY), certificate(KEY), "key", "is no private key", id="no key"),
        pytest.param("", pem(KEY), "certificate", "is no certificate", id="an empty certificate"),
        pytest.param("hello", pem(KEY), "certificate", "BEGIN CERTIFICATE", id="a text"),
        pytest.param(pem(KEY), pem(KEY), "certificate", "it holds a private key", id="no certificate"),
        pytest.param(certificate(KEY) + HALF, pem(KEY), "certificate", "cannot be read", id="a broken chain"),
        pytest.param(
            certificate(small := rsa.generate_private_key(65537, 1024)), pem(small), "key", "1024 bits", id="short RSA"
        ),
        pytest.param(
            certificate(curve := ec.generate_private_key(ec.SECP256K1())), pem(curve), "key", "P-256", id="a curve"
        ),
    ],
)
def test_is_refused_where_it_is_named(
    tmp_path: Path, manifest: str, crt: str, key: str, field: str, problem: str
) -> None:
    found = problems(tmp_path, manifest, crt, key)
    assert len(found) == 1
    assert found[0].startswith(place(manifest, field))
    assert problem in found[0]


@pytest.mark.parametrize("manifest", [LISTENER, SERVICE], ids=["listener", "service"])
@pytest.mark.parametrize(
    ("crt", "key"),
    [
        pytest.param(certificate(KEY), pem(KEY), id="a pair"),
        pytest.param(certificate(KEY) + certificate(curve), pem(KEY), id="a chain"),
        pytest.param(certificate(KEY), pem(KEY, None, PrivateFormat.TraditionalOpenSSL), id="a key of the old form"),
        pytest.param("a\n" + pem(KEY) + certificate(KEY), pem(KEY) + certificate(KEY), id="both in each file"),
        pytest.param(
            certificate(large := rsa.generate_private_key(65537, 2048)), pem(large), id="RSA of the least size"
        ),
    ],
)
def test_is_taken(tmp_path: Path, manifest: str, crt: str, key: str) -> None:
    assert problems(tmp_path, manifest, crt, key) == []


def test_both_files_are_told_of_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, LISTENER, pem(KEY), certificate(KEY))
    starts = (place(LISTENER, "certificate"), place(LISTENER, "key"))
    assert all(one.startswith(start) for one, start in zip(found, starts, strict=True))


@pytest.mark.parametrize(
    ("ca", "is_taken"),
    [
        pytest.param(certificate(KEY) + "\n# the old one\n" + certificate(KEY), True, id="two and a comment"),
        pytest.param("", False, id="nothing"),
        pytest.param("garbage", False, id="a text"),
        pytest.param(pem(KEY), False, id="a key"),
        pytest.param(certificate(KEY) + HALF, False, id="one of two broken"),
    ],
)
def test_authorities_are_certificates(tmp_path: Path, ca: str, is_taken: bool) -> None:
    found = problems(tmp_path, TRUST, ca, "")
    assert [one.startswith(place(TRUST, "ca")) for one in found] == ([] if is_taken else [True])


def test_no_problem_shows_what_is_in_a_file(tmp_path: Path) -> None:
    said = " ".join(problems(tmp_path, LISTENER, pem(KEY), "hush"))
    assert said
    assert not any(line in said for line in [*pem(KEY).splitlines()[1:-1], "hush"])
