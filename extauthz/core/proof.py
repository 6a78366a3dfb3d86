"""The header by which services know that a request came through the gateway: a JWT signed by the gateway itself.

It says who was verified (`sub`, `tenant`), under which policy, by which gateway (`iss`), for services (`aud`), and it
lives for a minute or so. It is made anew when half its life is over, so that one in transit is never about to end.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.api_jwt import encode

from extauthz.core.identity import Identity
from extauthz.core.jwk import KeyRefused
from extauthz.policy import Proof

AUDIENCE = "services"


class Prover:
    """Signs proofs with one key. Raises KeyRefused for a key that does not fit its algorithm."""

    def __init__(self, proof: Proof, gateway: str) -> None:
        self.header = proof.header
        self.lifetime_s = proof.lifetime_s
        self._algorithm = proof.algorithm
        self._gateway = gateway
        self._headers = {"kid": proof.kid} if proof.kid else None
        self._key = _private_key(proof)

    def sign(self, identity: Identity | None, policy: str, now: float) -> str:
        """A proof for a request of `identity`, or of nobody."""
        claims: dict[str, str | int] = {
            "iss": self._gateway,
            "aud": AUDIENCE,
            "iat": int(now),
            "exp": int(now) + self.lifetime_s,
            "policy": policy,
        }
        if identity is not None:
            claims["sub"] = identity.user
            if identity.tenant is not None:
                claims["tenant"] = identity.tenant
        return encode(claims, self._key, algorithm=self._algorithm, headers=self._headers)


def _private_key(proof: Proof) -> str | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    text = proof.key.reveal()
    if proof.algorithm == "HS256":
        if len(text.encode()) < 32 or "-----BEGIN" in text:
            raise KeyRefused("a secret of at least 32 bytes signs the proof")
        return text
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise KeyRefused("not a PEM private key") from error
    if isinstance(key, ed25519.Ed25519PrivateKey) and proof.algorithm == "EdDSA":
        return key
    if (
        isinstance(key, ec.EllipticCurvePrivateKey)
        and isinstance(key.curve, ec.SECP256R1)
        and proof.algorithm == "ES256"
    ):
        return key
    raise KeyRefused(f"the key is not for {proof.algorithm}")
