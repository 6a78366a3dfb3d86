"""`causeway token`: a token for trying things out, signed with the development secret of the manifests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.folder import Folder, built

if TYPE_CHECKING:
    from controlplane.ir.identity import Issuer


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("token")(token)


def token(
    folder: Folder = Path(),
    sub: Annotated[str, typer.Option(help="The user.")] = "dev",
    tenant: Annotated[str | None, typer.Option(help="The tenant.")] = None,
    roles: Annotated[str, typer.Option(help="Roles, with commas between them.")] = "",
    scopes: Annotated[str, typer.Option(help="Scopes, with spaces or commas between them.")] = "",
    tier: Annotated[str | None, typer.Option(help="The tier.")] = None,
    claim: Annotated[list[str] | None, typer.Option(help="Another claim: name=value, its value JSON or text.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Which issuer, by its name in the manifests.")] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long it lives: 15m, 1h.")] = "1h",
    refresh: Annotated[bool, typer.Option("--refresh", help="A refresh token, which no route accepts.")] = False,
) -> None:
    """Sign a token with the secret of an issuer that has one.

    Only secrets that stand in the manifests can sign; tokens of an issuer with published keys come from the issuer.
    """
    import jwt

    from controlplane.ir.identity import SharedSecret

    found = _issuer(built(folder).gateway.identity.issuers, issuer)
    if not isinstance(found.keys, SharedSecret):
        raise typer.BadParameter(f'issuer "{found.name}" has no secret here, only public keys', param_hint="--issuer")
    names = found.claims
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": found.issuer,
        "aud": found.audiences[0],
        "sub": sub,
        "iat": now,
        "exp": now + _seconds(lasts, found),
        "jti": _random_id(),
    }
    _put(claims, names.user, sub)
    if tenant is not None:
        _put(claims, names.tenant, tenant)
    if roles:
        _put(claims, names.roles, [one.strip() for one in roles.split(",") if one.strip()])
    if scopes:
        _put(claims, names.scopes, " ".join(scopes.replace(",", " ").split()))
    if tier is not None:
        _put(claims, names.tier, tier)
    for text in claim or ():
        name, _, value = text.partition("=")
        _put(claims, name, _value(value))
    algorithm = next((one for one in found.algorithms if one.startswith("HS")), "HS256")
    typ = "rt+jwt" if refresh else "at+jwt" if "at+jwt" in found.types else "JWT"
    if refresh:
        claims["token_use"] = "refresh"  # noqa: S105 - a claim
    print(jwt.encode(claims, found.keys.secret, algorithm=algorithm, headers={"typ": typ}))


def _issuer(issuers: tuple[Issuer, ...], name: str | None) -> Issuer:
    from controlplane.ir.identity import SharedSecret

    for one in issuers:
        if one.name == name or (name is None and isinstance(one.keys, SharedSecret)):
            return one
    known = ", ".join(one.name for one in issuers) or "none"
    what = f'no issuer "{name}"' if name is not None else "no issuer with a secret"
    raise typer.BadParameter(f"{what} in the manifests (there is {known})", param_hint="--issuer")


def _put(claims: dict[str, object], name: str, value: object) -> None:
    """Sets a claim; dots lead into objects."""
    *outer, last = name.split(".")
    for part in outer:
        inner = claims.setdefault(part, {})
        if not isinstance(inner, dict):
            raise typer.BadParameter(f'"{part}" is already a value, not an object', param_hint="--claim")
        claims = inner
    claims[last] = value


def _value(text: str) -> object:
    import json

    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _seconds(text: str, issuer: Issuer) -> int:
    from pydantic_core import PydanticCustomError

    from controlplane.manifests.models.scalars import Duration

    try:
        seconds = Duration.parse(text).ms // 1000
    except PydanticCustomError as problem:
        raise typer.BadParameter(str(problem), param_hint="--for") from None
    if seconds > issuer.max_lifetime_ms // 1000:
        raise typer.BadParameter(
            f"the issuer's tokens live {issuer.max_lifetime_ms // 1000}s at most", param_hint="--for"
        )
    return max(1, seconds)


def _random_id() -> str:
    import secrets

    return secrets.token_urlsafe(12)
