"""What a key and a set of keys must be, judged when they are loaded (RFC 7517, 7518, 7638, 8037, 8725)."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, rsa, x25519

from extauthz.core.jwk import KeyRefused, has_roca_fingerprint, load_key_set, pem_key, secret_key
from extauthz.core.jws import verify
from tests.extauthz.signing import ALGORITHMS, SECRET, b64, ec_key, integer, jwk, jws, key_set, pem, rsa_key


def _roca_modulus() -> int:
    """A modulus as the weak generator makes them: primes k*M + (65537^a mod M), here without being prime."""
    from extauthz.core.jwk import _PRIMES

    product = 2
    for prime in _PRIMES:
        product *= prime
    random = Random(7)
    bits = 1030 - product.bit_length()
    p, q = (random.getrandbits(bits) * product + pow(65537, random.getrandbits(30), product) for _ in range(2))
    return p * q


def _point_off_the_curve() -> dict[str, Any]:
    key = jwk("ES256")
    return key | {"y": key["x"]}


REFUSED_SETS: dict[str, Any] = {
    "not JSON": "{",
    "a list": "[]",
    "no keys": "{}",
    "keys that are no list": '{"keys":{}}',
    "a key that is no object": '{"keys":["x"]}',
    "an empty list": key_set(),
    "a member twice": '{"keys":[],"keys":[]}',
    "a member of a key twice": '{"keys":[{"kty":"oct","kty":"oct","k":"' + b64(SECRET) + '"}]}',
    "two keys of one id": key_set(jwk("RS256", kid="a"), jwk("ES256", kid="a")),
    "two keys of one id, one of them for encryption": key_set(jwk("RS256", kid="a"), jwk("ES256", kid="a", use="enc")),
    "two keys without an id": key_set(jwk("RS256", kid=None), jwk("ES256", kid=None)),
    "symmetric beside asymmetric": key_set(jwk("HS256"), jwk("RS256")),
    "a private key": key_set(jwk("RS256") | {"d": integer(rsa_key().private_numbers().d)}),
    "a private key among public ones": key_set(
        jwk("RS256"), jwk("ES256") | {"d": integer(ec_key("ES256").private_numbers().private_value, 32)}
    ),
    "no kty": key_set(jwk("RS256", kty=None)),
    "a kty that is a number": key_set(jwk("RS256") | {"kty": 1}),
    "a kid that is a number": key_set(jwk("RS256") | {"kid": 1}),
    "an alg that is a list": key_set(jwk("RS256") | {"alg": ["RS256"]}),
    "an empty secret": key_set(jwk("HS256") | {"k": ""}),
    "a secret that is too short": key_set(jwk("HS256") | {"k": b64(b"k" * 31)}),
    "a secret that is too short for its hash": key_set(jwk("HS512") | {"k": b64(b"k" * 63)}),
    "a secret with padding": key_set(jwk("HS256") | {"k": b64(SECRET) + "="}),
    "an RSA key of 1024 bits": key_set(
        jwk("RS256") | {"n": integer(rsa.generate_private_key(65537, 1024).public_key().public_numbers().n)}
    ),
    "an RSA key of too many bits": key_set(jwk("RS256") | {"n": integer((1 << 16384) + 1)}),
    "an RSA exponent of 1": key_set(jwk("RS256") | {"e": integer(1)}),
    "an even RSA exponent": key_set(jwk("RS256") | {"e": integer(65536)}),
    "a huge RSA exponent": key_set(jwk("RS256") | {"e": integer((1 << 512) + 1)}),
    "an even RSA modulus": key_set(jwk("RS256") | {"n": integer((1 << 2047) + 2)}),
    "an RSA modulus with a zero in front": key_set(
        jwk("RS256") | {"n": b64(b"\0" + rsa_key().public_key().public_numbers().n.to_bytes(256, "big"))}
    ),
    "an RSA modulus of the weak generator": key_set(jwk("RS256") | {"n": integer(_roca_modulus())}),
    "no modulus": key_set(jwk("RS256", n=None)),
    "a modulus that is a number": key_set(jwk("RS256") | {"n": 65537}),
    "a point that is not on the curve": key_set(_point_off_the_curve()),
    "the point at infinity": key_set(jwk("ES256") | {"x": b64(bytes(32)), "y": b64(bytes(32))}),
    "a short coordinate": key_set(jwk("ES256") | {"x": b64(b"x" * 31)}),
    "a coordinate with a zero in front": key_set(jwk("ES256") | {"x": b64(b"\0" + b"x" * 32)}),
    "an Ed25519 key that is too short": key_set(jwk("EdDSA") | {"x": b64(b"x" * 31)}),
    "an operation twice": key_set(jwk("RS256", use=None) | {"key_ops": ["verify", "verify"]}),
    "operations that are no list": key_set(jwk("RS256", use=None) | {"key_ops": "verify"}),
    "use and operations that contradict": key_set(jwk("RS256") | {"key_ops": ["encrypt"]}),
    "a use that is a list": key_set(jwk("RS256") | {"use": ["sig"]}),
    # Nothing is left of these:
    "only a key for encryption": key_set(jwk("RS256", use="enc")),
    "only a key for signing, not for verifying": key_set(jwk("RS256", use=None) | {"key_ops": ["sign"]}),
    "only a key for verifying and encrypting": key_set(jwk("RS256", use=None) | {"key_ops": ["verify", "encrypt"]}),
    "only a key of an unknown type": key_set({"kty": "AKP", "kid": "a"}),
    "only a key on an unknown curve": key_set(jwk("ES256") | {"crv": "P-192"}),
    "only a key for agreeing on keys": key_set(jwk("EdDSA") | {"crv": "X25519"}),
    "only a key for an unknown algorithm": key_set(jwk("RS256") | {"alg": "RS1"}),
    "only a key whose algorithm is another curve's": key_set(jwk("ES256") | {"alg": "ES384"}),
    "only a key with the algorithm of another type": key_set(jwk("RS256") | {"alg": "HS256"}),
    "only a key for RSA encryption": key_set(jwk("RS256") | {"alg": "RSA-OAEP"}),
}


@pytest.mark.parametrize("case", REFUSED_SETS)
def test_refused(case: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        load_key_set(REFUSED_SETS[case])
    assert b64(SECRET) not in str(refused.value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_single_key_is_a_set_of_one(algorithm: str) -> None:
    assert verify(jws(algorithm), load_key_set(json.dumps(jwk(algorithm))))


def test_keys_that_are_not_for_us_are_left_out_beside_one_that_is() -> None:
    """Honest issuers publish encryption keys beside signing keys."""
    others = [
        jwk("RS256", kid="enc", use="enc"),
        jwk("ES256", kid="curve", crv="P-192"),
        {"kty": "AKP", "kid": "post-quantum", "alg": "ML-DSA-44"},
        jwk("EdDSA", kid="agree", crv="X25519"),
    ]
    assert [key.kid for key in load_key_set(key_set(*others, jwk("PS256"))).keys] == ["key-PS256"]


@pytest.mark.parametrize(
    ("algorithm", "allowed", "expected"),
    [
        ("RS256", (), "RS256"),
        ("RS256", ("PS384",), "PS384"),
        ("RS256", ("PS384", "ES256"), "PS384"),
        ("ES256", (), "ES256"),
        ("ES384", ("ES384", "RS256"), "ES384"),
        ("EdDSA", (), "EdDSA"),
        ("HS256", ("HS384",), "HS384"),
    ],
)
def test_a_key_that_names_no_algorithm_is_bound_to_one(algorithm: str, allowed: tuple[str, ...], expected: str) -> None:
    keys = load_key_set(key_set(jwk(algorithm, alg=None)), algorithms=allowed)
    assert keys.keys[0].algorithm == expected


def test_a_key_that_names_no_algorithm_is_refused_where_two_would_do() -> None:
    with pytest.raises(KeyRefused, match="RS256 or PS256"):
        load_key_set(key_set(jwk("RS256", alg=None)), algorithms=["RS256", "PS256"])


def test_what_is_not_allowed_is_left_out() -> None:
    keys = load_key_set(key_set(jwk("RS256"), jwk("ES256")), algorithms=["ES256"])
    assert [key.kid for key in keys.keys] == ["key-ES256"]
    with pytest.raises(KeyRefused, match="with EdDSA"):
        load_key_set(key_set(jwk("RS256")), algorithms=["EdDSA"])


def test_a_published_set_has_no_secrets() -> None:
    with pytest.raises(KeyRefused, match="published"):
        load_key_set(key_set(jwk("HS256")), symmetric=False)


def test_a_set_has_a_largest_size_and_a_largest_number() -> None:
    with pytest.raises(KeyRefused, match="bytes"):
        load_key_set(" " * 300_000)
    with pytest.raises(KeyRefused, match="at most 100"):
        load_key_set(key_set(*[jwk("ES256", kid=str(number)) for number in range(101)]))


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """The example of RFC 7638, section 3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
        "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5ha"
        "jrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    text = json.dumps({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert load_key_set(text).keys[0].thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_ed25519_vector_of_rfc_8037() -> None:
    """RFC 8037, appendix A.4 and A.3: the signature and the thumbprint."""
    keys = load_key_set('{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}')
    token = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGj"
        "g5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert verify(token, keys) == b"Example of Ed25519 signing"
    assert keys.keys[0].thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_hmac_vector_of_rfc_7515() -> None:
    """RFC 7515, appendix A.1."""
    key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
    token = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )
    payload = verify(token, load_key_set(json.dumps({"kty": "oct", "k": key})))
    assert json.loads(payload) == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}


def test_the_ecdsa_vector_of_rfc_7515() -> None:
    """RFC 7515, appendix A.3."""
    key = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    token = (
        "eyJhbGciOiJFUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    assert verify(token, load_key_set(json.dumps(key)))


SECRETS = {
    "too short": b"k" * 31,
    "nothing": b"",
    "a public key": pem("RS256").encode(),
}


@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_is_refused(case: str) -> None:
    with pytest.raises(KeyRefused):
        secret_key(SECRETS[case])


def test_a_secret_of_exactly_the_least_length_is_taken() -> None:
    assert secret_key(b"k" * 32).keys[0].algorithm == "HS256"


def test_a_secret_is_refused_for_an_algorithm_it_cannot_have() -> None:
    with pytest.raises(KeyRefused, match="RS256"):
        secret_key(b"k" * 32, algorithms=["RS256"])


def _private_pem() -> str:
    return (
        rsa_key()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def _spki(key: Any) -> str:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()  # fmt: skip


PEMS = {
    "a private key": lambda: _private_pem(),
    "rubbish": lambda: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    "nothing": lambda: "",
    "a small RSA key": lambda: _spki(rsa.generate_private_key(65537, 1024)),
    "a DSA key": lambda: _spki(dsa.generate_private_key(2048)),
    "a key for agreeing on keys": lambda: _spki(x25519.X25519PrivateKey.generate()),
}


@pytest.mark.parametrize("case", PEMS)
def test_a_pem_key_is_refused(case: str) -> None:
    with pytest.raises(KeyRefused):
        pem_key(PEMS[case]())


def test_a_pem_key_is_refused_for_an_algorithm_it_cannot_have() -> None:
    with pytest.raises(KeyRefused, match="ES384"):
        pem_key(pem("ES256"), algorithms=["ES384"])


def test_honest_moduli_have_no_fingerprint() -> None:
    random = Random(1)
    assert not any(has_roca_fingerprint(random.getrandbits(2048) | 1) for _ in range(2000))
    assert has_roca_fingerprint(_roca_modulus())
    with pytest.raises(KeyRefused, match="known weakness"):
        load_key_set(REFUSED_SETS["an RSA modulus of the weak generator"])
