"""Keys of every kind, and tokens spelled by hand, so that a test can spell them wrongly."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
CURVES = {
    "ES256": ("P-256", ec.SECP256R1(), 32, hashes.SHA256()),
    "ES384": ("P-384", ec.SECP384R1(), 48, hashes.SHA384()),
    "ES512": ("P-521", ec.SECP521R1(), 66, hashes.SHA512()),
    "ES256K": ("secp256k1", ec.SECP256K1(), 32, hashes.SHA256()),
}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
)  # fmt: skip


def b64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def integer(value: int, width: int | None = None) -> str:
    return b64(value.to_bytes(width or (value.bit_length() + 7) // 8, "big"))


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(algorithm: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(CURVES[algorithm][1])


@cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, **changes: Any) -> dict[str, Any]:
    """The public JWK of the key for an algorithm; a change to None leaves a member out."""
    found: dict[str, Any] = {"alg": algorithm, "kid": f"key-{algorithm}", "use": "sig"}
    if algorithm.startswith("HS"):
        found |= {"kty": "oct", "k": b64(SECRET)}
    elif algorithm[:2] in ("RS", "PS"):
        numbers = rsa_key().public_key().public_numbers()
        found |= {"kty": "RSA", "n": integer(numbers.n), "e": integer(numbers.e)}
    elif algorithm in CURVES:
        point = ec_key(algorithm).public_key().public_numbers()
        curve, _, width, _ = CURVES[algorithm]
        found |= {"kty": "EC", "crv": curve, "x": integer(point.x, width), "y": integer(point.y, width)}
    else:
        raw = ed25519_key().public_key().public_bytes_raw()
        found |= {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
    return {name: value for name, value in (found | changes).items() if value is not None}


def key_set(*jwks: Mapping[str, Any]) -> str:
    return json.dumps({"keys": list(jwks)})


def pem(algorithm: str) -> str:
    key = rsa_key() if algorithm[:2] in ("RS", "PS") else ec_key(algorithm) if algorithm in CURVES else ed25519_key()
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def signature(algorithm: str, message: bytes) -> bytes:
    """A right signature by the key for the algorithm."""
    if algorithm.startswith("HS"):
        return hmac.new(SECRET, message, getattr(hashlib, f"sha{algorithm[2:]}")).digest()
    if algorithm.startswith("RS"):
        return rsa_key().sign(message, padding.PKCS1v15(), HASHES[algorithm[2:]])
    if algorithm.startswith("PS"):
        digest = HASHES[algorithm[2:]]
        return rsa_key().sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    if algorithm in CURVES:
        _, _, width, digest = CURVES[algorithm]
        r, s = decode_dss_signature(ec_key(algorithm).sign(message, ec.ECDSA(digest)))
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")
    return ed25519_key().sign(message)


def jws(algorithm: str, payload: bytes = b'{"a":1}', header: str | None = None, **members: Any) -> str:
    """A right token; `header` replaces the header's JSON as it stands."""
    text = header or json.dumps({"alg": algorithm, "kid": f"key-{algorithm}", **members})
    message = f"{b64(text.encode('utf-8', 'surrogatepass'))}.{b64(payload)}"
    return f"{message}.{b64(signature(algorithm, message.encode()))}"
