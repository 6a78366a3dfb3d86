"""Signed tokens for tests, right by default and wrong where a test says so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jwt

SECRET = "a shared secret of more than thirty-two bytes"
ISSUER = "https://issuer.test"
AUDIENCE = "api"


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a valid access token; a change to None leaves the claim out."""
    now = int(time.time())
    usual: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user-1",
        "tenant_id": "acme",
        "roles": ["member"],
        "iat": now,
        "exp": now + 900,
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A signed token."""
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=dict(headers or {}))


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    """The Authorization header, as the client takes headers."""
    return (("authorization", f"Bearer {text}"),)
