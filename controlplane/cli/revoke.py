"""`causeway revoke`: credentials that count no longer, on every replica within a second."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from extauthz.core.revocations import Kind, Revocation

_FAILED, _UNREACHABLE = 1, 4


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("revoke")(revoke)


def revoke(
    jti: Annotated[str | None, typer.Option(help="One token, by its id.")] = None,
    sub: Annotated[str | None, typer.Option(help="Every credential of a user.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Every credential of a tenant.")] = None,
    api_key: Annotated[str | None, typer.Option(help="An API key, by its id.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Every credential.")] = False,
    before: Annotated[
        str | None, typer.Option(help="What was issued until then: 2027-01-31T12:00:00Z, or seconds. Now, if left out.")
    ] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long to remember it: as long as tokens live.")] = "7d",
    lift: Annotated[bool, typer.Option("--lift", help="Take an earlier revocation back.")] = False,
    admin: Annotated[
        str, typer.Option(envvar="CAUSEWAY_EXTAUTHZ_ADMIN", help="The authorization service's admin address.")
    ] = "127.0.0.1:18002",
    redis: Annotated[
        str | None, typer.Option(envvar="CAUSEWAY_REVOCATION_REDIS", help="Write to this Redis, past the service.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="The prefix of keys in Redis.")] = "causeway:revocations",
) -> None:
    """Revoke tokens by id, user, tenant, or all of them; what was issued later is not touched.

    Exit codes: 0 in force, 1 refused, 4 nobody to tell.
    """
    revocation = _revocation(_subject(jti, sub, tenant, api_key, everybody), _moment(before), lasts, lift=lift)
    if redis is not None:
        _to_redis(redis, prefix, revocation)
    else:
        _to_service(admin, revocation)
    what = "lifted" if lift else "revoked"
    typer.echo(f"{what}: {revocation.kind} {revocation.value}".rstrip(), err=True)


def _subject(
    jti: str | None, sub: str | None, tenant: str | None, api_key: str | None, everybody: bool
) -> tuple[Kind, str]:
    given: list[tuple[Kind, str]] = []
    if jti is not None:
        given.append(("token", jti))
    if sub is not None:
        given.append(("subject", sub))
    if tenant is not None:
        given.append(("tenant", tenant))
    if api_key is not None:
        given.append(("api_key", api_key))
    if everybody:
        given.append(("all", ""))
    if len(given) != 1:
        raise typer.BadParameter("give one of --jti, --sub, --tenant, --api-key and --all")
    return given[0]


def _revocation(what: tuple[Kind, str], before: int, lasts: str, *, lift: bool) -> Revocation:
    from pydantic_core import PydanticCustomError

    from controlplane.manifests.models.scalars import Duration
    from extauthz.core.revocations import Revocation

    try:
        seconds = Duration.parse(lasts).ms // 1000
    except PydanticCustomError as problem:
        raise typer.BadParameter(str(problem), param_hint="--for") from None
    kind, value = what
    return Revocation(kind=kind, value=value, before=before, until=int(time.time()) + seconds, lifted=lift)


def _moment(text: str | None) -> int:
    from datetime import datetime

    if text is None:
        return int(time.time())
    try:
        return int(text) if text.isdigit() else int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise typer.BadParameter(f'"{text}" is no moment', param_hint="--before") from None


def _to_service(admin: str, revocation: Revocation) -> None:
    import json

    from controlplane.cli.control import ControlConnection, Unreachable
    from serving.address import parse_address

    try:
        answer = ControlConnection(parse_address(admin)).post("/revocations", json.loads(revocation.dump()))
    except Unreachable as problem:
        _fail(str(problem).replace("control plane", "authorization service"), _UNREACHABLE)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--admin") from None
    if "error" in answer:
        _fail(str(answer["error"]), _FAILED)


def _to_redis(url: str, prefix: str, revocation: Revocation) -> None:
    from extauthz.revocation import RedisStore, StoreUnavailable
    from serving.secret import Secret

    async def publish() -> None:
        store = RedisStore(Secret(url), prefix)
        try:
            await store.publish(revocation)
        finally:
            await store.close()

    try:
        asyncio.run(publish())
    except StoreUnavailable as problem:
        _fail(str(problem), _UNREACHABLE)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
