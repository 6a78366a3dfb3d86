"""RFC 7515 with the restraint of RFC 8725: what is not the usual spelling of a signed token is refused."""

from __future__ import annotations

import contextlib
import json

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.core.jwk import load_key_set, pem_key, secret_key
from extauthz.core.jws import MAX_TOKEN_BYTES, TokenRefused, parse, verify
from tests.extauthz.signing import ALGORITHMS, CURVES, SECRET, b64, jwk, jws, key_set, pem, signature

KEYS = {algorithm: load_key_set(key_set(jwk(algorithm))) for algorithm in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_signature_gives_the_payload(algorithm: str) -> None:
    assert verify(jws(algorithm, b"anything at all"), KEYS[algorithm]) == b"anything at all"


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if not a.startswith("HS")])
def test_a_pem_key_verifies_too(algorithm: str) -> None:
    assert verify(jws(algorithm), pem_key(pem(algorithm), algorithms=[algorithm])) == b'{"a":1}'


def test_a_secret_verifies_too() -> None:
    assert verify(jws("HS512"), secret_key(SECRET, algorithms=["HS512"])) == b'{"a":1}'


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pyjwt_makes_what_we_take_and_takes_what_we_take(algorithm: str) -> None:
    token = jws(algorithm, json.dumps({"sub": "x"}).encode())
    key = jwt.PyJWK.from_dict(jwk(algorithm))
    assert jwt.decode(token, key, algorithms=[algorithm]) == {"sub": "x"}
    verify(token, KEYS[algorithm])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("where", [0, 1, 2], ids=["the header", "the payload", "the signature"])
def test_a_changed_bit_is_refused(algorithm: str, where: int) -> None:
    segments = jws(algorithm).split(".")
    middle = len(segments[where]) // 2
    other = "A" if segments[where][middle] != "A" else "B"
    segments[where] = segments[where][:middle] + other + segments[where][middle + 1 :]
    with pytest.raises(TokenRefused):
        verify(".".join(segments), KEYS[algorithm])


@pytest.mark.parametrize("keyed", ALGORITHMS)
@pytest.mark.parametrize("said", [*ALGORITHMS, "none", "None", "nOnE", "", "hs256", "ES521"])
def test_only_the_algorithm_the_key_is_bound_to_passes(keyed: str, said: str) -> None:
    """RFC 8725, 3.1 and 2.1: the header's word is compared, never followed."""
    header = json.dumps({"alg": said, "kid": f"key-{keyed}"})
    signed = said if said in ALGORITHMS else keyed
    token = jws(signed, header=header)
    if said == keyed:
        verify(token, KEYS[keyed])
        return
    with pytest.raises(TokenRefused):
        verify(token, KEYS[keyed])


def test_a_public_key_is_never_an_hmac_secret() -> None:
    """The classic confusion: HS256 keyed with the text of the RSA public key."""
    import hashlib
    import hmac

    message = b64(b'{"alg":"HS256","kid":"key-RS256"}') + "." + b64(b"{}")
    for text in (pem("RS256"), pem("RS256").strip(), json.dumps(jwk("RS256"))):
        forged = f"{message}.{b64(hmac.new(text.encode(), message.encode(), hashlib.sha256).digest())}"
        with pytest.raises(TokenRefused, match="algorithm_mismatch"):
            verify(forged, KEYS["RS256"])


@pytest.mark.parametrize("member", ["crit", "b64", "zip", "cty", "enc", "jku", "jwk", "x5u", "x5c"])
@pytest.mark.parametrize("value", ['""', "null", "true", '["exp"]', "{}"])
def test_a_header_that_asks_for_more_is_refused(member: str, value: str) -> None:
    header = f'{{"alg":"RS256","kid":"key-RS256","{member}":{value}}}'
    with pytest.raises(TokenRefused, match="token_malformed"):
        verify(jws("RS256", header=header), KEYS["RS256"])


HEADERS = {
    "no alg": '{"kid":"key-HS256"}',
    "an alg that is a number": '{"alg":256}',
    "an alg that is a list": '{"alg":["HS256"]}',
    "an alg that is null": '{"alg":null}',
    "alg twice": '{"alg":"none","alg":"HS256","kid":"key-HS256"}',
    "kid twice": '{"alg":"HS256","kid":"key-HS256","kid":"key-HS256"}',
    "a member twice by an escape": '{"alg":"HS256","kid":"key-HS256","k\\u0069d":"key-HS256"}',
    "a kid that is a number": '{"alg":"HS256","kid":7}',
    "a kid that is null": '{"alg":"HS256","kid":null}',
    "an empty kid": '{"alg":"HS256","kid":""}',
    "a kid that is too long": '{"alg":"HS256","kid":"' + "k" * 257 + '"}',
    "a typ that is a number": '{"alg":"HS256","kid":"key-HS256","typ":1}',
    "a list in place of an object": '["HS256"]',
    "text in place of an object": '"HS256"',
    "something after the object": '{"alg":"HS256","kid":"key-HS256"}x',
    "two objects": '{"alg":"HS256","kid":"key-HS256"}{}',
    "NaN": '{"alg":"HS256","kid":"key-HS256","x":NaN}',
    "Infinity": '{"alg":"HS256","kid":"key-HS256","x":Infinity}',
    "a comment": '{"alg":"HS256",/**/"kid":"key-HS256"}',
    "a trailing comma": '{"alg":"HS256","kid":"key-HS256",}',
    "single quotes": "{'alg':'HS256'}",
    "a byte order mark": '\ufeff{"alg":"HS256","kid":"key-HS256"}',
    "half a surrogate pair": '{"alg":"HS256","kid":"key-HS256","x":"\\ud800"}',
    "a control character in text": '{"alg":"HS256","kid":"key-HS256","x":"\x01"}',
    "nothing": " ",
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_is_not_right_is_refused(case: str) -> None:
    with pytest.raises(TokenRefused):
        verify(jws("HS256", header=HEADERS[case]), KEYS["HS256"])


def _spellings() -> dict[str, str]:
    token = jws("HS256", b'{"a":1}')
    header, payload, sig = token.split(".")
    # The last character of 43 carries two bits that belong to no byte.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = last[last.index(sig[-1]) ^ 1]
    return {
        "padding after the signature": f"{token}=",
        "padding after the header": f"{header}=.{payload}.{sig}",
        "padding after the payload": f"{header}.{payload}==.{sig}",
        "stray bits in the signature": f"{header}.{payload}.{sig[:-1]}{stray}",
        "the other base64 alphabet": f"{header}.{payload}.{'+' + sig[1:]}",
        "a line break at the end": f"{token}\n",
        "a line break inside": f"{header}.{payload}.\n{sig}",
        "a space in front": f" {token}",
        "a space inside": f"{header}. {payload}.{sig}",
        "four segments": f"{token}.{sig}",
        "five segments": f"{token}.{sig}.{sig}",
        "two segments": f"{header}.{payload}",
        "no signature": f"{header}.{payload}.",
        "no header": f".{payload}.{sig}",
        "one segment": header,
        "only dots": "..",
        "nothing": "",
        "a character outside ASCII": f"{header}.{payload}.{sig}\u00e9",
        "a full-width dot": f"{header}\uff0e{payload}.{sig}",
        "a zero byte": f"{token}\x00",
        "a JSON serialisation": json.dumps({"payload": payload, "protected": header, "signature": sig}),
        "a lone character in a segment": f"{header}.{payload}A.{sig}",
        "a truncated signature": f"{header}.{payload}.{sig[:-2]}",
        "a signature with a byte more": f"{header}.{payload}.{sig}AA",
    }


SPELLINGS = _spellings()


@pytest.mark.parametrize("case", SPELLINGS)
def test_a_token_has_one_spelling(case: str) -> None:
    with pytest.raises(TokenRefused):
        verify(SPELLINGS[case], KEYS["HS256"])


def test_a_token_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(TokenRefused, match="token_too_large"):
        verify("a" * (MAX_TOKEN_BYTES + 1), KEYS["HS256"])
    long = jws("HS256", b"x" * 5900)
    assert len(long) < MAX_TOKEN_BYTES
    verify(long, KEYS["HS256"])


def test_bytes_and_text_are_the_same_token() -> None:
    assert verify(jws("HS256").encode(), KEYS["HS256"]) == verify(jws("HS256"), KEYS["HS256"])


ORDERS = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "ES512": int(
        "1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
    "ES256K": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


@pytest.mark.parametrize("algorithm", CURVES)
def test_an_ecdsa_signature_is_two_integers_in_range_at_full_width(algorithm: str) -> None:
    width, order = CURVES[algorithm][2], ORDERS[algorithm]
    key = KEYS[algorithm].keys[0]
    right = signature(algorithm, b"m")
    assert key.verify(right, b"m")
    r, s = int.from_bytes(right[:width], "big"), int.from_bytes(right[width:], "big")

    def raw(r: int, s: int) -> bytes:
        return (r % 2 ** (8 * width)).to_bytes(width, "big") + (s % 2 ** (8 * width)).to_bytes(width, "big")

    edges = [(0, 0), (0, s), (r, 0), (1, 1), (order, s), (r, order), (order, order), (r + order, s), (r, s + order)]
    edges += [(order - 1, 0), (0, order - 1), (0, 1), (1, 0), (2 ** (8 * width) - 1, 2 ** (8 * width) - 1)]
    for one in edges:
        if raw(*one) != right:
            assert not key.verify(raw(*one), b"m"), one
    for wrong in (b"", right[:-1], right + b"\0", b"\0" + right, right[:width], right + right, bytes(2 * width)):
        assert not key.verify(wrong, b"m")
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    assert not key.verify(encode_dss_signature(r, s), b"m")  # DER is another format


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "EdDSA"])
def test_a_signature_of_another_length_or_of_nothing_is_refused(algorithm: str) -> None:
    key = KEYS[algorithm].keys[0]
    right = signature(algorithm, b"m")
    for wrong in (b"", right[:-1], right + b"\0", b"\0" + right, bytes(len(right)), b"\xff" * len(right)):
        assert not key.verify(wrong, b"m")


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 64, 222], ids=str)
def test_pss_has_a_salt_as_long_as_its_hash(salt: int) -> None:
    """RFC 7518, 3.5."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    from tests.extauthz.signing import rsa_key

    wrong = rsa_key().sign(b"m", padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    assert not KEYS["PS256"].keys[0].verify(wrong, b"m")


def test_a_token_without_a_key_id_means_the_only_key() -> None:
    alone = load_key_set(key_set(jwk("HS256")))
    two = load_key_set(key_set(jwk("RS256"), jwk("ES256")))
    assert verify(jws("HS256", header='{"alg":"HS256"}'), alone)
    with pytest.raises(TokenRefused, match="key_unknown"):
        verify(jws("RS256", header='{"alg":"RS256"}'), two)


def test_a_key_id_that_is_not_there_is_refused_though_another_key_would_fit() -> None:
    with pytest.raises(TokenRefused, match="key_unknown"):
        verify(jws("RS256", header='{"alg":"RS256","kid":"other"}'), KEYS["RS256"])


def test_a_static_key_without_an_id_stands_for_any_id() -> None:
    assert verify(jws("HS256", header='{"alg":"HS256","kid":"whatever"}'), secret_key(SECRET))


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300), st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*")))
def test_whatever_is_sent_the_only_exception_is_a_refusal(token: str | bytes) -> None:
    with pytest.raises(TokenRefused):
        verify(token, KEYS["HS256"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "x"]), JSON, max_size=4), st.binary(max_size=64))
def test_any_header_is_parsed_or_refused(header: dict[str, object], payload: bytes) -> None:
    with contextlib.suppress(TokenRefused):
        parse(f"{b64(json.dumps(header).encode())}.{b64(payload)}.AAAA")


@pytest.mark.parametrize("depth", [50, 2000], ids=["nested", "nested deeply"])
def test_nesting_breaks_nothing(depth: int) -> None:
    header = '{"alg":"HS256","kid":"key-HS256","x":' + "[" * depth + "]" * depth + "}"
    with contextlib.suppress(TokenRefused):
        verify(jws("HS256", header=header), KEYS["HS256"])
