"""Why a request is refused: for each reason the status, the code and the sentence a client gets.

The reason goes to logs, metrics and metadata. A client learns less: what failed before the signature was checked is
one `token_invalid`, so that nobody can find out which check a forgery nearly passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALLOWED: Final = "ok"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told. `bearer_error` is RFC 6750's code for WWW-Authenticate, where there is one."""

    status: int
    code: str
    message: str
    bearer_error: str = ""


def _unauthenticated(code: str, message: str, bearer_error: str = "invalid_token") -> Refusal:
    return Refusal(401, code, message, bearer_error)


_TOKEN_INVALID: Final = _unauthenticated("token_invalid", "The token is not valid.")

REFUSALS: Final[dict[str, Refusal]] = {
    "credentials_missing": _unauthenticated("credentials_missing", "Authentication is required.", ""),
    "credentials_ambiguous": _unauthenticated(
        "credentials_ambiguous", "More than one credential was sent; send one.", "invalid_request"
    ),
    "credentials_malformed": _unauthenticated(
        "credentials_malformed", "The credential is not well formed.", "invalid_request"
    ),
    "credentials_not_accepted": _unauthenticated(
        "credentials_not_accepted", "This kind of credential is not accepted here.", "invalid_token"
    ),
    "token_too_large": _TOKEN_INVALID,
    "token_malformed": _TOKEN_INVALID,
    "issuer_unknown": _TOKEN_INVALID,
    "key_unknown": _TOKEN_INVALID,
    "algorithm_mismatch": _TOKEN_INVALID,
    "signature_invalid": _TOKEN_INVALID,
    "claim_missing": _TOKEN_INVALID,
    "claim_invalid": _TOKEN_INVALID,
    "lifetime_exceeded": _TOKEN_INVALID,
    "token_type_mismatch": _unauthenticated("token_type_mismatch", "A token of this kind is not accepted here."),
    "token_expired": _unauthenticated("token_expired", "The token has expired."),
    "token_not_yet_valid": _unauthenticated("token_not_yet_valid", "The token is not valid yet."),
    "audience_mismatch": _unauthenticated("audience_mismatch", "The token is meant for somebody else."),
    "issuer_not_accepted": _unauthenticated("issuer_not_accepted", "Tokens of this issuer are not accepted here."),
    "revoked": _unauthenticated("revoked", "The credential has been revoked."),
    "api_key_invalid": _unauthenticated("api_key_invalid", "The API key is not valid.", ""),
    "api_key_expired": _unauthenticated("api_key_expired", "The API key has expired.", ""),
    "password_invalid": _unauthenticated("password_invalid", "The user name or password is not valid.", ""),
    "certificate_unknown": _unauthenticated("certificate_unknown", "The client certificate is not known.", ""),
    "tenant_mismatch": Refusal(403, "tenant_mismatch", "The request is for another tenant."),
    "role_missing": Refusal(403, "role_missing", "A required role is missing."),
    "scope_missing": Refusal(403, "scope_missing", "A required scope is missing.", "insufficient_scope"),
    "claim_mismatch": Refusal(403, "claim_mismatch", "The request is not permitted."),
    "ip_denied": Refusal(403, "ip_denied", "Requests from this address are not permitted."),
    "request_refused": Refusal(400, "request_refused", "The request is not well formed."),
    "policy_unknown": Refusal(503, "authorization_unavailable", "Authorization is not available right now."),
    "keys_unavailable": Refusal(503, "authorization_unavailable", "Authorization is not available right now."),
    "revocations_unavailable": Refusal(503, "authorization_unavailable", "Authorization is not available right now."),
    "overloaded": Refusal(503, "authorization_unavailable", "Authorization is not available right now."),
    "internal_error": Refusal(503, "authorization_unavailable", "Authorization is not available right now."),
}
"""Every reason there is."""
