"""`cors:`: which pages of other origins may call, and with what."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.manifests.models.base import Model, refuse
from controlplane.manifests.models.scalars import Duration, shown
from controlplane.manifests.models.text import HeaderName, Method

_ORIGIN = re.compile(r"https?://(\*\.)?[a-z0-9.-]+(:\d{1,5})?")


def _origin(value: object) -> object:
    if isinstance(value, str) and (value == "*" or _ORIGIN.fullmatch(value.lower())):
        return value.lower()
    raise refuse(
        f"{shown(value)} is not an origin",
        hint='write "https://app.example.com", "https://*.example.com", or "*" for any',
        code="origin",
    )


Origin = Annotated[
    str,
    BeforeValidator(_origin),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(\*|https?://(\*\.)?[A-Za-z0-9.-]+(:\d{1,5})?)$",
            "examples": ["https://app.example.com", "https://*.example.com"],
        }
    ),
]


class Cors(Model):
    """Cross-origin requests. A browser's preflight is answered by the gateway, before authentication."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=100)]
    """Who may call: `https://app.example.com`, `https://*.example.com` for whatever is below, `*` for anyone."""
    methods: tuple[Method, ...] | None = None
    """Methods that pages may use. The route's when left out."""
    headers: tuple[HeaderName, ...] = ("authorization", "content-type")
    """Request headers that pages may send."""
    expose: tuple[HeaderName, ...] = ()
    """Response headers that pages may read."""
    credentials: bool = False
    """Whether pages may send cookies and client certificates."""
    max_age: Duration = Duration(600_000)
    """How long a browser remembers the answer to a preflight."""

    @model_validator(mode="after")
    def _no_credentials_for_anyone(self) -> Cors:
        if self.credentials and "*" in self.origins:
            raise refuse(
                "`credentials` with the origin `*` would let every page act as the user",
                hint="name the origins",
                code="cors",
            )
        return self


CorsField = Cors | Literal["none"]
"""What stands behind `cors:`: a mapping, or `none` where an inherited one does not hold."""
