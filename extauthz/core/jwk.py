"""Keys: what a JWK Set, a PEM key or a secret is worth, judged once, when it is loaded.

A `Key` is bound to one algorithm and has one id; a `KeySet` finds it by that id and holds nothing else. A set that is
dangerous as a whole is refused (a repeated id, symmetric beside asymmetric, a private key, a weak one); a key that is
merely not for verifying signatures (encryption, an unknown type or curve) is left out, as RFC 7517 section 5 asks,
because honest issuers publish such keys beside those we need.

Specifications: RFC 7517 (JWK), 7518 section 6 (parameters), 7638 (thumbprint), 8037 (Ed25519, Ed448), 8725 (practice).
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.algorithms import Algorithm, get_default_algorithms

from extauthz.core.strict import Json, base64url, json_object

MAX_SET_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MAX_KID: Final = 256
RSA_BITS: Final = (2048, 8192)

SYMMETRIC: Final = ("HS256", "HS384", "HS512")
ALGORITHMS: Final = (
    *SYMMETRIC, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA",
)  # fmt: skip

# PyJWT checks signatures; what a token and a key must be is decided here and in `jws`. A key never meets another
# algorithm than its own, and `none` is not among these.
_VERIFIERS: Final[dict[str, Algorithm]] = {
    name: verifier for name, verifier in get_default_algorithms().items() if name in ALGORITHMS
}
_CURVES: Final[dict[str, tuple[ec.EllipticCurve, str, int]]] = {
    "P-256": (ec.SECP256R1(), "ES256", 32),
    "P-384": (ec.SECP384R1(), "ES384", 48),
    "P-521": (ec.SECP521R1(), "ES512", 66),
    "secp256k1": (ec.SECP256K1(), "ES256K", 32),
}
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))
_KEY_OPS: Final = frozenset(("sign", "verify"))


class KeyRefused(ValueError):  # noqa: N818 - a decision about a key, like TokenRefused about a token
    """A key or set that must not be used. The text says why and shows no key material."""


class _NotForUs(Exception):  # noqa: N818
    """A key to leave out of its set: harmless, and of no use for verifying signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key bound to its algorithm. `verify(signature, message)` is whether the signature is that of the message."""

    kid: str | None
    algorithm: str
    thumbprint: str
    """RFC 7638, SHA-256, base64url. A symmetric key's is a digest of the key and must not be shown either."""
    verify: Callable[[bytes, bytes], bool] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """An issuer's keys. Immutable; equal thumbprints and ids mean equal sets."""

    keys: tuple[Key, ...]
    by_kid: Mapping[str | None, Key] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_kid: dict[str | None, Key] = {}
        for key in self.keys:
            if key.kid in by_kid:
                named = "no id" if key.kid is None else f"the id {key.kid!r}"
                raise KeyRefused(f"two keys have {named}")
            by_kid[key.kid] = key
        object.__setattr__(self, "by_kid", by_kid)

    def find(self, kid: str | None) -> Key | None:
        """The key a token means. A single key without an id stands for every token; a token without an id means the
        only key of a set of one. Nothing is ever tried in turn."""
        if kid is None:
            return self.keys[0] if len(self.keys) == 1 else None
        found = self.by_kid.get(kid)
        if found is None and len(self.keys) == 1 and self.keys[0].kid is None:
            return self.keys[0]
        return found


def load_key_set(text: str | bytes, *, algorithms: Iterable[str] = (), symmetric: bool = True) -> KeySet:
    """The usable keys of a JWK Set, or of a single JWK, given as JSON.

    `algorithms` restricts what keys may be used with; it also tells a key that names no algorithm what it is for (else
    RSA means RS256, and a secret HS256). `symmetric` is false for sets that were published. Raises KeyRefused.
    """
    octets = text.encode() if isinstance(text, str) else text
    if len(octets) > MAX_SET_BYTES:
        raise KeyRefused(f"a key set has at most {MAX_SET_BYTES} bytes")
    try:
        document = json_object(octets)
    except ValueError as error:
        raise KeyRefused(f"not a key set: {error}") from error
    members = document.get("keys", [document] if "kty" in document else None)
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise KeyRefused(f'a key set has a list "keys" of at most {MAX_KEYS}')
    jwks = [jwk if isinstance(jwk, dict) else _refuse("a key is not an object") for jwk in members]
    _no_mixture(jwks, symmetric=symmetric)
    _distinct_ids(jwks)
    allowed = tuple(algorithms)
    keys: list[Key] = []
    for jwk in jwks:
        try:
            keys.append(_key(jwk, allowed))
        except _NotForUs:
            continue
    if not keys:
        raise KeyRefused("no key of the set can verify signatures" + (f" with {', '.join(allowed)}" if allowed else ""))
    return KeySet(tuple(keys))


def secret_key(secret: str | bytes, *, algorithms: Iterable[str] = (), kid: str | None = None) -> KeySet:
    """A shared secret as a set of one key. It must be as long as its hash (RFC 7518, 3.2), and not be a public key."""
    octets = secret.encode() if isinstance(secret, str) else secret
    if b"-----BEGIN" in octets:
        raise KeyRefused("a PEM key is not a secret")
    allowed = tuple(algorithms)
    try:
        return KeySet((_symmetric(octets, _one_algorithm(None, SYMMETRIC, allowed, "HS256"), kid),))
    except _NotForUs as error:
        raise KeyRefused(f"a secret cannot be used with {', '.join(allowed)}") from error


def pem_key(pem: str | bytes, *, algorithms: Iterable[str] = (), kid: str | None = None) -> KeySet:
    """A PEM public key as a set of one key."""
    octets = pem.encode() if isinstance(pem, str) else pem
    if b"PRIVATE" in octets:
        raise KeyRefused("a private key was given where a public one belongs")
    try:
        public = load_pem_public_key(octets)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefused("not a PEM public key") from error
    allowed = tuple(algorithms)
    try:
        match public:
            case rsa.RSAPublicKey():
                numbers = public.public_numbers()
                return KeySet((_rsa(numbers.n, numbers.e, _rsa_algorithm(None, allowed), kid),))
            case ec.EllipticCurvePublicKey():
                curve = next((c for c in _CURVES if isinstance(public.curve, type(_CURVES[c][0]))), "")
                point = public.public_numbers()
                return KeySet((_ec(curve, point.x, point.y, None, allowed, kid),))
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                curve = "Ed25519" if isinstance(public, ed25519.Ed25519PublicKey) else "Ed448"
                raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
                return KeySet((_okp(curve, raw, None, allowed, kid),))
            case _:
                raise KeyRefused("a key of this type does not verify tokens")
    except _NotForUs as error:
        raise KeyRefused(f"the key cannot be used with {', '.join(allowed)}") from error


# One JWK --------------------------------------------------------------------------------------------------------------


def _refuse(why: str) -> dict[str, Json]:
    raise KeyRefused(why)


def _no_mixture(jwks: list[dict[str, Json]], *, symmetric: bool) -> None:
    """Symmetric keys beside public ones invite confusion of the two; in a published set they are not secret at all."""
    secrets = sum(jwk.get("kty") == "oct" for jwk in jwks)
    if secrets and not symmetric:
        raise KeyRefused("a published set has a symmetric key")
    if secrets and secrets != len(jwks):
        raise KeyRefused("the set mixes symmetric and asymmetric keys")


def _distinct_ids(jwks: list[dict[str, Json]]) -> None:
    seen: set[str] = set()
    for jwk in jwks:
        kid = jwk.get("kid")
        if isinstance(kid, str):
            if kid in seen:
                raise KeyRefused(f"two keys have the id {kid[:64]!r}")
            seen.add(kid)


def _key(jwk: dict[str, Json], allowed: tuple[str, ...]) -> Key:
    kty = jwk.get("kty")
    if not isinstance(kty, str):
        raise KeyRefused('a key has no "kty"')
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        raise KeyRefused(f'a "kid" is text of 1 to {MAX_KID} characters')
    alg = jwk.get("alg")
    if alg is not None and not isinstance(alg, str):
        raise KeyRefused('"alg" is not text')
    if kty != "oct" and not _PRIVATE.isdisjoint(jwk):
        raise KeyRefused("the set has a private key in it")
    _check_purpose(jwk)
    match kty:
        case "oct":
            return _symmetric(_octets(jwk, "k"), _one_algorithm(alg, SYMMETRIC, allowed, "HS256"), kid)
        case "RSA":
            return _rsa(_integer(jwk, "n"), _integer(jwk, "e"), _rsa_algorithm(alg, allowed), kid)
        case "EC":
            curve = jwk.get("crv")
            if not isinstance(curve, str) or curve not in _CURVES:
                raise _NotForUs
            x, y, width = _octets(jwk, "x"), _octets(jwk, "y"), _CURVES[curve][2]
            if len(x) != width or len(y) != width:
                raise KeyRefused(f"a coordinate on {curve} has {width} bytes")
            return _ec(curve, int.from_bytes(x, "big"), int.from_bytes(y, "big"), alg, allowed, kid)
        case "OKP":
            curve = jwk.get("crv")
            if curve not in ("Ed25519", "Ed448"):
                raise _NotForUs
            return _okp(str(curve), _octets(jwk, "x"), alg, allowed, kid)
        case _:
            raise _NotForUs


def _check_purpose(jwk: dict[str, Json]) -> None:
    """`use` and `key_ops` (RFC 7517, 4.2 and 4.3): each must allow verifying, and they must not contradict."""
    use, operations = jwk.get("use"), jwk.get("key_ops")
    if use is not None and not isinstance(use, str):
        raise KeyRefused('"use" is not text')
    if operations is not None:
        if not isinstance(operations, list) or not all(isinstance(one, str) for one in operations):
            raise KeyRefused('"key_ops" is not a list of text')
        if len(set(map(str, operations))) != len(operations):
            raise KeyRefused('"key_ops" repeats an operation')
        for_signatures = _KEY_OPS.issuperset(map(str, operations))
        if use is not None and (use == "sig") != for_signatures:
            raise KeyRefused('"use" and "key_ops" contradict each other')
        if not for_signatures or "verify" not in operations:
            raise _NotForUs
    if use not in (None, "sig"):
        raise _NotForUs


def _octets(jwk: dict[str, Json], member: str) -> bytes:
    value = jwk.get(member)
    if not isinstance(value, str) or not value:
        raise KeyRefused(f'a key has no "{member}"')
    try:
        return base64url(value)
    except ValueError as error:
        raise KeyRefused(f'"{member}" is not base64url') from error


def _integer(jwk: dict[str, Json], member: str) -> int:
    """Base64urlUInt (RFC 7518, 2): the least number of bytes."""
    octets = _octets(jwk, member)
    if octets[0] == 0:
        raise KeyRefused(f'"{member}" begins with a zero byte')
    return int.from_bytes(octets, "big")


def _one_algorithm(named: str | None, fitting: tuple[str, ...], allowed: tuple[str, ...], usual: str) -> str:
    """The algorithm a key is bound to: the one it names, else the only one allowed that fits, else the usual one."""
    if named is not None:
        if named not in fitting or (allowed and named not in allowed):
            raise _NotForUs
        return named
    if not allowed:
        return usual
    possible = [one for one in fitting if one in allowed]
    if not possible:
        raise _NotForUs
    if len(possible) > 1:
        raise KeyRefused(f'a key names no "alg" and could be used with {" or ".join(possible)}; allow one')
    return possible[0]


# One key of each kind -------------------------------------------------------------------------------------------------


def _symmetric(secret: bytes, algorithm: str, kid: str | None) -> Key:
    bits = algorithm[2:]
    if len(secret) * 8 < int(bits):
        raise KeyRefused(f"a secret for {algorithm} has at least {int(bits) // 8} bytes, found {len(secret)}")

    verifier = _VERIFIERS[algorithm]

    def verify(signature: bytes, message: bytes) -> bool:
        return verifier.verify(message, secret, signature)

    return Key(kid=kid, algorithm=algorithm, thumbprint=_thumbprint(kty="oct", k=_encoded(secret)), verify=verify)


def _rsa_algorithm(named: str | None, allowed: tuple[str, ...]) -> str:
    return _one_algorithm(named, ALGORITHMS[3:9], allowed, "RS256")


def _rsa(modulus: int, exponent: int, algorithm: str, kid: str | None) -> Key:
    low, high = RSA_BITS
    if not low <= modulus.bit_length() <= high:
        raise KeyRefused(f"an RSA key has {low} to {high} bits, found {modulus.bit_length()}")
    if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > 64:
        raise KeyRefused("an RSA exponent is odd, at least 3, at most 64 bits")
    if modulus % 2 == 0 or has_roca_fingerprint(modulus):
        raise KeyRefused("the RSA modulus has a known weakness")
    try:
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise KeyRefused("not an RSA public key") from error
    verifier = _VERIFIERS[algorithm]

    def verify(signature: bytes, message: bytes) -> bool:
        return verifier.verify(message, public, signature)

    thumbprint = _thumbprint(e=_encoded_integer(exponent), kty="RSA", n=_encoded_integer(modulus))
    return Key(kid=kid, algorithm=algorithm, thumbprint=thumbprint, verify=verify)


def _ec(curve: str, x: int, y: int, named: str | None, allowed: tuple[str, ...], kid: str | None) -> Key:
    if curve not in _CURVES:
        raise _NotForUs
    parameters, fitting, width = _CURVES[curve]
    algorithm = _one_algorithm(named, (fitting,), allowed, fitting)
    try:
        public = ec.EllipticCurvePublicNumbers(x, y, parameters).public_key()
    except ValueError as error:
        raise KeyRefused(f"the point is not on {curve}") from error
    verifier = _VERIFIERS[algorithm]

    def verify(signature: bytes, message: bytes) -> bool:
        if len(signature) != 2 * width:  # RFC 7518, 3.4: the two integers at their full width
            return False
        return verifier.verify(message, public, signature)

    thumbprint = _thumbprint(
        crv=curve, kty="EC", x=_encoded(x.to_bytes(width, "big")), y=_encoded(y.to_bytes(width, "big"))
    )
    return Key(kid=kid, algorithm=algorithm, thumbprint=thumbprint, verify=verify)


def _okp(curve: str, raw: bytes, named: str | None, allowed: tuple[str, ...], kid: str | None) -> Key:
    algorithm = _one_algorithm(named, ("EdDSA",), allowed, "EdDSA")
    public: ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
    try:
        if curve == "Ed25519":
            public = ed25519.Ed25519PublicKey.from_public_bytes(raw)
        else:
            public = ed448.Ed448PublicKey.from_public_bytes(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"not a public key on {curve}") from error

    verifier = _VERIFIERS[algorithm]

    def verify(signature: bytes, message: bytes) -> bool:
        return verifier.verify(message, public, signature)

    thumbprint = _thumbprint(crv=curve, kty="OKP", x=_encoded(raw))
    return Key(kid=kid, algorithm=algorithm, thumbprint=thumbprint, verify=verify)


# Fingerprints ---------------------------------------------------------------------------------------------------------


def _encoded(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _encoded_integer(value: int) -> str:
    return _encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _thumbprint(**members: str) -> str:
    """RFC 7638: SHA-256 of the required members, in order, without spaces."""
    return _encoded(sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest())


def _powers_of_65537(prime: int) -> frozenset[int]:
    powers, power = set(), 1
    while power not in powers:
        powers.add(power)
        power = power * 65537 % prime
    return frozenset(powers)


_PRIMES: Final = tuple(n for n in range(3, 168) if all(n % m for m in range(2, n)))
_ROCA: Final = tuple((prime, _powers_of_65537(prime)) for prime in _PRIMES)


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether an RSA modulus came from the generator of CVE-2017-15361, whose primes are k*M + (65537^a mod M).

    Then the modulus is a power of 65537 modulo every small prime, which happens to an honest one with a probability
    below 2^-27.
    """
    return all(modulus % prime in powers for prime, powers in _ROCA)
