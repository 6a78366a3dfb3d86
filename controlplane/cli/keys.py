"""`causeway keys`: API keys, made here and shown once; the manifests keep only their hashes."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from controlplane.cli.folder import PROBLEMS, AsJson, Folder, report

if TYPE_CHECKING:
    from controlplane.manifests.load import Loaded
    from controlplane.manifests.models.identity import ApiKey

KEY_FILE = "api-keys.yaml"
_HEADER = "# Written by `causeway keys`. Hashes only: the keys themselves are nowhere.\napi_keys:\n"
_MOST_LIVE = 2


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    group = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
    group.command("new")(new)
    group.command("list")(show)
    group.command("revoke")(revoke)
    group.command("hash-password")(hash_password)
    app.add_typer(group, name="keys")


def new(
    client: Annotated[str, typer.Option(help="Whose key it is.")],
    folder: Folder = Path(),
    tenant: Annotated[str | None, typer.Option(help="The tenant it acts for.")] = None,
    tier: Annotated[str | None, typer.Option(help="Its tier.")] = None,
    roles: Annotated[str, typer.Option(help="Roles, with commas between them.")] = "",
    scopes: Annotated[str, typer.Option(help="Scopes, with commas between them.")] = "",
    expires: Annotated[str | None, typer.Option(help="When it ends: 90d, or 2027-01-31 (UTC).")] = None,
    json: AsJson = False,
) -> None:
    """Make a key, print it once, and write its hash to api-keys.yaml in the folder.

    A client may have two live keys: make the new one, move the client over, revoke the old one.
    """
    import secrets

    from extauthz.core.api_keys import ID_BYTES, SECRET_BYTES, new_key

    loaded = _loaded(folder)
    settings = loaded.manifest.identity.api_keys
    if settings is None:
        _fail("the manifests configure no API keys: add `identity: {api_keys: {pepper: ${API_KEY_PEPPER}}}`")
    standing = [key for key in loaded.manifest.api_keys.values() if key.client == client and not key.disabled]
    if len(standing) >= _MOST_LIVE:
        _fail(f'client "{client}" has {len(standing)} keys already; revoke one first')
    made = new_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES), settings.pepper.reveal())
    record: dict[str, object] = {"client": client, "hash": f"hmac-sha256:{made.digest}"}
    record |= {name: value for name, value in (("tenant", tenant), ("tier", tier)) if value is not None}
    record |= {name: _list(value) for name, value in (("roles", roles), ("scopes", scopes)) if value}
    if expires is not None:
        record["expires"] = _moment(expires)
    file = _folder(folder) / KEY_FILE
    _append(file, made.id, record)
    if json:
        print(_encoded({"id": made.id, "key": made.text, "file": str(file), **record}))
        return
    print(made.text)
    typer.echo(f"id {made.id}, written to {file}. The key is not shown again.", err=True)


def show(folder: Folder = Path(), json: AsJson = False) -> None:
    """List the keys: whose they are, and whether they are live."""
    keys = _loaded(folder).manifest.api_keys
    rows = [
        {
            "id": key_id,
            "client": key.client,
            "tenant": key.tenant or "",
            "tier": key.tier or "",
            "roles": ",".join(key.roles),
            "expires": key.expires or "",
            "state": _state(key),
        }
        for key_id, key in sorted(keys.items(), key=lambda item: (item[1].client, item[0]))
    ]
    if json:
        print(_encoded(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("id", "client", "tenant", "tier", "roles", "expires", "state"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def revoke(key_id: Annotated[str, typer.Argument(help="The key's id.")], folder: Folder = Path()) -> None:
    """Disable a key in api-keys.yaml. It is refused as soon as the control plane has read the file."""
    from extauthz.jwks import write_private

    file = _folder(folder) / KEY_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        _fail(f"there is no {file}")
    for number, line in enumerate(lines):
        if line.startswith(f"  {key_id}: {{") and line.rstrip().endswith("}"):
            if '"disabled": true' in line:
                _fail(f"key {key_id} is revoked already")
            lines[number] = line.rstrip()[:-1] + ', "disabled": true}\n'
            write_private(file, "".join(lines))
            typer.echo(f"key {key_id} revoked in {file}", err=True)
            return
    if key_id in _loaded(folder).manifest.api_keys:
        _fail(f"key {key_id} was not written by this command: add `disabled: true` to it where it stands")
    _fail(f"no key has the id {key_id}")


def hash_password() -> None:
    """Ask for a password and print its scrypt hash, for `identity.basic.users`."""
    import secrets

    from extauthz.core.basic import SALT_BYTES, hash_password

    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    print(hash_password(password, secrets.token_bytes(SALT_BYTES)))


def _loaded(folder: Path) -> Loaded:
    """The folder's manifests; with problems they are printed and the process ends."""
    from controlplane.manifests.load import Refused, load

    loaded = load(folder, os.environ)
    if isinstance(loaded, Refused):
        from controlplane.cli.folder import Format

        report(loaded, Format.TEXT, folder)
        raise typer.Exit(PROBLEMS)
    return loaded


def _state(key: ApiKey) -> str:
    if key.disabled:
        return "revoked"
    if key.expires is not None and _epoch(key.expires) <= time.time():
        return "expired"
    return "live"


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text if "T" in text else f"{text}T00:00:00Z").timestamp()


def _moment(text: str) -> str:
    """A moment from now (`90d`), or a date."""
    from pydantic_core import PydanticCustomError

    from controlplane.manifests.models.scalars import Duration

    try:
        if "-" in text:
            _epoch(text)
            return text
        ends = datetime.fromtimestamp(time.time() + Duration.parse(text).ms / 1000, UTC)
    except (PydanticCustomError, ValueError):
        raise typer.BadParameter(f'"{text}" is neither a span such as 90d nor a date', param_hint="--expires") from None
    return ends.strftime("%Y-%m-%dT%H:%M:%SZ")


def _list(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _append(file: Path, key_id: str, record: dict[str, object]) -> None:
    """Adds a record as one line of JSON, which is YAML too: easy to read, to review and to find again."""
    from extauthz.jwks import write_private

    text = file.read_text(encoding="utf-8") if file.exists() else _HEADER
    if text and not text.endswith("\n"):
        text += "\n"
    write_private(file, f"{text}  {key_id}: {_encoded(record, indent=None)}\n")


def _encoded(value: object, indent: int | None = 2) -> str:
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False)


def _folder(folder: Path) -> Path:
    return folder if folder.is_dir() else folder.parent


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(PROBLEMS)
