"""causeway token, keys, authz test: what a person types, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.main import build
from tests.extauthz import signing

MANIFEST = """
gateway:
  listeners: [{port: 8080}]
identity:
  issuers:
    dev: {issuer: dev, audiences: [api], secret: a development secret of 32 bytes or more}
    far: {issuer: https://far.test, audiences: [api], jwks: "https://far.test/jwks.json"}
  api_keys: {pepper: salt and pepper}
  headers: {x-user-id: sub, x-tenant-id: tenant_id}
services:
  s: {endpoints: ["127.0.0.1:3000"]}
routes:
  - {path: /a/**, service: s}
  - {path: /admin/**, service: s, auth: {roles: [admin]}}
  - {path: "/t/:tenant/**", service: s, auth: {tenant: ":tenant"}}
  - {path: /p/**, service: s, auth: public}
  - {path: /a/**, hosts: [shop.test], service: s, auth: {scopes: [buy]}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gateway.yaml").write_text(MANIFEST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def causeway(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(build(), arguments)
    assert done.exit_code == code, done.output
    return done.stdout


def explained(*arguments: str, code: int = 0) -> dict[str, object]:
    found: dict[str, object] = json.loads(causeway("authz", "test", "--json", *arguments, code=code))
    return found


def test_a_token_is_what_was_asked_for(folder: Path) -> None:
    token = causeway("token", "--sub", "ann", "--tenant", "acme", "--roles", "admin,member").strip()
    found = explained("--token", token, "GET", "/admin/x")
    assert found["allowed"] is True
    assert found["identity"] == {"user": "ann", "tenant": "acme", "roles": ["admin", "member"]}


def test_a_refresh_token_opens_nothing(folder: Path) -> None:
    token = causeway("token", "--refresh").strip()
    assert explained("--token", token, "GET", "/a/x", code=1)["reason"] == "token_type_mismatch"


ROWS = {
    "another tenant": (("--tenant", "acme"), ("GET", "/t/globex/x"), "tenant_mismatch"),
    "the own tenant": (("--tenant", "acme"), ("GET", "/t/acme/x"), "ok"),
    "a missing role": ((), ("GET", "/admin/x"), "role_missing"),
    "a scope of another host's route": ((), ("GET", "/a/x", "--host", "shop.test"), "scope_missing"),
    "the scope": (("--scopes", "buy"), ("GET", "/a/x", "--host", "shop.test"), "ok"),
    "a trick in the path": ((), ("GET", "/a/..;/admin/x"), "request_refused"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_request_is_explained(folder: Path, case: str) -> None:
    wanted, asked, reason = ROWS[case]
    token = causeway("token", *wanted).strip()
    found = explained("--token", token, *asked, code=0 if reason == "ok" else 1)
    assert found["reason"] == reason
    assert len(found["steps"]) >= 3  # type: ignore[arg-type]


def test_public_and_unknown_routes_are_told_apart(folder: Path) -> None:
    assert explained("GET", "/p/x")["allowed"] is True
    causeway("authz", "test", "GET", "/nowhere", code=1)


def test_published_keys_come_from_a_file(folder: Path) -> None:
    (folder / "jwks.json").write_text(signing.key_set(signing.jwk("ES256")))
    import time

    now = int(time.time())
    claims = {"iss": "https://far.test", "aud": "api", "sub": "x", "iat": now, "exp": now + 60}
    token = signing.jws("ES256", json.dumps(claims).encode(), typ="JWT")
    assert explained("--token", token, "GET", "/a/x", code=1)["reason"] == "keys_unavailable"
    assert explained("--token", token, "--jwks", "jwks.json", "GET", "/a/x")["allowed"] is True


def test_a_key_is_made_listed_used_and_revoked(folder: Path) -> None:
    key = causeway("keys", "new", "--client", "robot", "--tenant", "acme", "--expires", "90d").strip()
    assert key not in (folder / "api-keys.yaml").read_text()
    assert (folder / "api-keys.yaml").stat().st_mode & 0o077 == 0
    assert explained("--api-key", key, "GET", "/t/acme/x")["allowed"] is True
    (row,) = json.loads(causeway("keys", "list", "--json"))
    assert (row["client"], row["state"]) == ("robot", "live")
    causeway("keys", "new", "--client", "robot")
    causeway("keys", "new", "--client", "robot", code=1)  # two are enough to replace one
    causeway("keys", "revoke", row["id"])
    assert explained("--api-key", key, "GET", "/a/x", code=1)["reason"] == "revoked"
    causeway("keys", "new", "--client", "robot")
    causeway("keys", "revoke", "nosuchkey", code=1)


@pytest.mark.parametrize("arguments", [(), ("--sub", "a", "--tenant", "b"), ("--sub", "a", "--for", "soon")])
def test_a_revocation_names_one_thing(folder: Path, arguments: tuple[str, ...]) -> None:
    causeway("revoke", *arguments, code=2)


def test_a_revocation_that_nobody_hears_fails(folder: Path) -> None:
    causeway("revoke", "--sub", "a", "--admin", "127.0.0.1:1", code=4)


def test_each_worker_has_addresses_of_its_own() -> None:
    from controlplane.cli.extauthz import worker_flags
    from extauthz.settings import Settings
    from serving.address import parse_address

    settings = Settings(
        listen=(parse_address("unix:/run/x.sock"), parse_address("127.0.0.1:9000")),
        admin=parse_address("127.0.0.1:9100"),
    )
    given = ["--workers", "3", "--listen=unix:/run/x.sock", "--listen", "127.0.0.1:9000", "--state", "s"]
    first, third = (worker_flags(settings, number, given) for number in (1, 3))
    assert first == (
        "--state", "s", "--listen", "unix:/run/x.sock", "--listen", "127.0.0.1:9000", "--admin", "127.0.0.1:9100",
    )  # fmt: skip
    assert third == (
        "--state", "s", "--listen", "unix:/run/x-3.sock", "--listen", "127.0.0.1:9002", "--admin", "127.0.0.1:9102",
    )  # fmt: skip
