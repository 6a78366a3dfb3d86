"""Certificates and keys that Envoy would refuse are problems of the manifest, at the field that names the file."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
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

Key = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | dsa.DSAPrivateKey
)

LISTENER = "gateway: {listeners: [{port: 8443, tls: {certificate: a.crt, key: a.key}}]}\n"
SERVICE = "services: {a: {endpoints: ['https://a:1'], tls: {certificate: a.crt, key: a.key}}}\n"
TRUST = "services: {a: {endpoints: ['https://a:1'], tls: {ca: a.crt}}}\n"
KEY = ec.generate_private_key(ec.SECP256R1())


def changed(pem: str, old: str, new: str) -> str:
    """The certificate with some bytes changed: who signed it is not asked."""
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    assert der.count(bytes.fromhex(old)) == 1
    return ssl.DER_cert_to_PEM_cert(der.replace(bytes.fromhex(old), bytes.fromhex(new)))


ONE = ec.derive_private_key(1, ec.SECP256R1())
EXPLICIT = """\
-----BEGIN CERTIFICATE-----
MIICYDCCAgegAwIBAgIUJcvWc9zbgbJh8k4Q0KbQxyyohkQwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAeFw0yNjExMjgyMjU4NDdaFw0yNjExMjkyMjU4NDdaMAwx
CjAIBgNVBAMMAWEwggFLMIIBAwYHKoZIzj0CATCB9wIBATAsBgcqhkjOPQEBAiEA
/////wAAAAEAAAAAAAAAAAAAAAD///////////////8wWwQg/////wAAAAEAAAAA
AAAAAAAAAAD///////////////wEIFrGNdiqOpPns+u9VXaYhrxlHQawzFOw9jvO
PD4n0mBLAxUAxJ02CIbnBJNqZnjhE50mt4GffpAEQQRrF9Hy4SxCR/i85uVjpEDy
dwN9gS3rM6D0oTlF2JjClk/jQuL+Gn+bjufrSnwPnhYrzjNXazFezsu2QGg3v1H1
AiEA/////wAAAAD//////////7zm+q2nF56E87nKwvxjJVECAQEDQgAEaxfR8uEs
Qkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sx
Xs7LtkBoN79R9aNTMFEwHQYDVR0OBBYEFLRno5mete+mcd4AMvCKnJ5e/aDhMB8G
A1UdIwQYMBaAFLRno5mete+mcd4AMvCKnJ5e/aDhMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDRwAwRAIgfdu03PwVUnXMve0pFN1Xpl5nEbjjhDc+ULx6wT5U
nNICIDNDsvUePnEZ5LP8wLuL1vNlcUdqHNbz49UUTXIeK9Mn
-----END CERTIFICATE-----
"""
"""Of `ONE`, made by `openssl req -x509`, its curve by `openssl pkey -ec_param_enc explicit`."""
HALF = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def certificate(key: Key, subject: str = "a", san: x509.GeneralName | None = None) -> str:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))  # whether it is valid today is not asked
    )
    if san is not None:
        built = built.add_extension(x509.SubjectAlternativeName([san]), critical=False)
    is_edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    signed = built.sign(key, None if is_edwards else hashes.SHA256())
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
        pytest.param(certificate(old := dsa.generate_private_key(1024)), pem(old), "key", "kind DSA", id="DSA"),
        pytest.param(certificate(new := ed448.Ed448PrivateKey.generate()), pem(new), "key", "kind Ed448", id="Ed448"),
        pytest.param(
            changed(
                certificate(large := rsa.generate_private_key(65537, 2048)),
                "06092a864886f70d0101010500",
                "06092a864886f70d01010a3000",
            ),
            pem(large),
            "certificate",
            "RSA-PSS alone",
            id="RSA-PSS",
        ),
        pytest.param(EXPLICIT, pem(ONE), "certificate", "written out, not named", id="a curve without a name"),
        pytest.param(
            changed(certificate(KEY), "06082a8648ce3d030107", "06082a8648ce3d030102"),
            pem(KEY),
            "key",
            "is not that of",
            id="a curve that nobody knows",
        ),
        pytest.param("\ufeff" + certificate(KEY), pem(KEY), "certificate", "byte order mark", id="a byte order mark"),
        pytest.param(certificate(KEY), "\ufeff" + pem(KEY), "key", "byte order mark", id="one before the key"),
        pytest.param(
            certificate(KEY).rstrip() + certificate(KEY), pem(KEY), "certificate", "begin a line", id="two in a line"
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
        pytest.param(certificate(large), pem(large), id="RSA of the least size"),
    ],
)
def test_is_taken(tmp_path: Path, manifest: str, crt: str, key: str) -> None:
    assert problems(tmp_path, manifest, crt, key) == []


@pytest.mark.parametrize("san", [None, x509.RFC822Name("a@example.com")], ids=["nothing", "a mailbox"])
def test_a_listeners_certificate_names_someone(tmp_path: Path, san: x509.GeneralName | None) -> None:
    nameless = certificate(KEY, "", san)
    (found,) = problems(tmp_path, LISTENER, nameless, pem(KEY))
    assert found.startswith(place(LISTENER, "certificate"))
    assert "neither a name nor an address" in found
    assert problems(tmp_path, SERVICE, nameless, pem(KEY)) == []


@pytest.mark.parametrize(
    "san",
    [x509.DNSName("a"), x509.IPAddress(ip_address("10.0.0.1")), x509.UniformResourceIdentifier("spiffe://a/b")],
    ids=["a host", "an address", "a URI"],
)
def test_without_a_subject_another_name_will_do(tmp_path: Path, san: x509.GeneralName) -> None:
    assert problems(tmp_path, LISTENER, certificate(KEY, "", san), pem(KEY)) == []


def test_one_port_may_have_a_certificate_for_each_address(tmp_path: Path) -> None:
    tls = "tls: {certificate: a.crt, key: a.key}"
    other = "tls: {certificate: b.crt, key: a.key}"
    (tmp_path / "b.crt").write_text(certificate(KEY, "b"))
    listeners = f"[{{port: 8443, address: 10.0.0.1, {tls}}}, {{port: 8443, address: 10.0.0.2, {other}}}]"
    assert problems(tmp_path, f"gateway: {{listeners: {listeners}}}\n", certificate(KEY), pem(KEY)) == []


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
