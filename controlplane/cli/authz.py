"""`causeway authz test`: what the authorization service would decide, step by step, without a running gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from controlplane.cli.folder import AsJson, built

if TYPE_CHECKING:
    from controlplane.ir.gateway import Gateway
    from controlplane.ir.route import PathMatch, Route, ValueMatch
    from extauthz.core.decide import Decision
    from extauthz.core.jwk import KeySet
    from extauthz.policy import Policy

_DENIED = 1


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    group = typer.Typer(help="Explain authorization.", no_args_is_help=True)
    group.command("test")(explain)
    app.add_typer(group, name="authz")


def explain(
    method: Annotated[str, typer.Argument(help="The method: GET.")],
    target: Annotated[str, typer.Argument(help="The path, perhaps with a query: /api/orders/7.")],
    folder: Annotated[
        Path, typer.Option("--manifests", "-m", envvar="CAUSEWAY_MANIFESTS", help="The folder with the manifests.")
    ] = Path(),
    token: Annotated[str | None, typer.Option(envvar="CAUSEWAY_TOKEN", help="A bearer token.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="CAUSEWAY_API_KEY", help="An API key.")] = None,
    basic: Annotated[str | None, typer.Option(help="user:password.")] = None,
    host: Annotated[str, typer.Option(help="The host asked for.")] = "localhost",
    ip: Annotated[str, typer.Option(help="The client's address.")] = "127.0.0.1",
    header: Annotated[list[str] | None, typer.Option(help="A header that routes match on: name=value.")] = None,
    jwks: Annotated[
        list[str] | None, typer.Option(help="Keys of an issuer whose keys are fetched: issuer=FILE, or FILE.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Decide one request as the gateway would, and say why.

    Nothing is fetched: the keys of an issuer with a URL come from --jwks. Exit codes: 0 allowed, 1 refused.
    """
    from controlplane.translate.policies.extauthz import extauthz_policy, policy_name

    gateway = built(folder).gateway
    route = match(gateway, method, target, host.lower(), dict(_pairs(header or [])))
    if route is None:
        typer.echo("no route matches: 404", err=True)
        raise typer.Exit(_DENIED)
    steps = [f"the route {route.name} ({route.origin}) matches"]
    if not route.authorization.asks:
        steps.append("the route is public: nobody is asked")
        _tell(steps, allowed=True, reason="ok", identity={}, as_json=json)
        return
    policy = extauthz_policy(gateway.name, gateway.identity, (one.authorization for one in gateway.routes))
    name = policy_name(route.authorization)
    steps.append(f"its policy is {name}")
    decision = _decide(policy, name, (method, target, host, ip), (token, api_key, basic), jwks or [], steps)
    identity = decision.identity
    known = {} if identity is None else {"user": identity.user, "tenant": identity.tenant, "roles": identity.roles}
    _tell(steps, allowed=decision.allowed, reason=decision.reason, identity=known, as_json=json)
    if not decision.allowed:
        raise typer.Exit(_DENIED)


def _decide(
    policy: Policy,
    name: str,
    asked: tuple[str, str, str, str],
    credentials: tuple[str | None, str | None, str | None],
    jwks: list[str],
    steps: list[str],
) -> Decision:
    import secrets
    from base64 import b64encode

    from extauthz.core import basic as passwords
    from extauthz.core.decide import Authorizer, PasswordNeeded
    from extauthz.core.request import Request
    from extauthz.core.revocations import Revocations
    from extauthz.jwks import static_key_sets

    method, target, host, ip = asked
    token, api_key, basic = credentials
    authorization = []
    if token is not None:
        authorization.append(f"Bearer {token}".encode())
    if basic is not None:
        authorization.append(b"Basic " + b64encode(basic.encode()))
    request = Request(
        policy=name,
        method=method,
        path=target,
        host=host,
        address=ip,
        authorization=tuple(authorization),
        api_key=(api_key.encode(),) if api_key is not None else (),
    )
    keys = {**static_key_sets(policy), **_published(policy, jwks)}
    one = Authorizer(policy, keys, Revocations(), secret=secrets.token_bytes(16))
    now = time.time()
    decision = one.decide(request, now, note=steps.append)
    if isinstance(decision, PasswordNeeded):
        is_right = policy.basic is not None and passwords.check(decision.password, policy.basic)
        decision = one.decide(request, now, password=is_right, note=steps.append)
    if isinstance(decision, PasswordNeeded):
        raise TypeError("a password was checked and is asked for again")
    return decision


def _published(policy: Policy, files: list[str]) -> dict[str, KeySet]:
    """The keys given on the command line, by issuer: those of one file stand for the only issuer that needs any."""
    from extauthz.core.jwk import KeyRefused, load_key_set
    from extauthz.policy import RemoteKeys

    remote = [name for name, issuer in policy.issuers.items() if isinstance(issuer.keys, RemoteKeys)]
    found: dict[str, KeySet] = {}
    for text in files:
        name, equals, file = text.partition("=")
        if not equals:
            name, file = remote[0] if len(remote) == 1 else "", text
        if name not in policy.issuers:
            raise typer.BadParameter(f"whose keys are {text}? Write issuer=FILE", param_hint="--jwks")
        try:
            keys = load_key_set(Path(file).read_bytes(), algorithms=policy.issuers[name].algorithms, symmetric=False)
        except (OSError, KeyRefused) as problem:
            raise typer.BadParameter(f"{file}: {problem}", param_hint="--jwks") from None
        found[name] = keys
    return found


def match(gateway: Gateway, method: str, target: str, host: str, headers: Mapping[str, str]) -> Route | None:
    """The route that answers, as Envoy finds it: the most specific host, then the first route that fits."""
    from urllib.parse import parse_qsl

    path, _, query = target.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if not gateway.route_tables:
        return None
    hosts = gateway.route_tables[0].virtual_hosts
    ranked = sorted(
        ((rank, one) for one in hosts for domain in one.domains if (rank := _host_rank(domain, host)) >= 0),
        key=lambda pair: -pair[0],
    )
    for route in ranked[0][1].routes if ranked else ():
        fits = (
            _path_fits(route.match.path, path)
            and (not route.match.methods or method in route.match.methods)
            and all(_value_fits(one, headers.get(one.name)) for one in route.match.headers)
            and all(_value_fits(one, parameters.get(one.name)) for one in route.match.query)
        )
        if fits:
            return route
    return None


def _host_rank(domain: str, host: str) -> int:
    """How specific a domain is for a host; -1 where it does not hold it."""
    if domain == host:
        return 1000
    if domain == "*":
        return 0
    return len(domain) if domain.startswith("*") and host.endswith(domain[1:]) else -1


def _path_fits(match: PathMatch, path: str) -> bool:
    from controlplane.expression import is_match
    from controlplane.ir.route import ExactPath, PathPrefix, PathRegex

    match match:
        case ExactPath(exact):
            return path in (exact, exact + "/")
        case PathPrefix("/"):
            return True
        case PathPrefix(prefix):
            return path == prefix or path.startswith(prefix + "/")
        case PathRegex(regex):
            return is_match(regex, path)
        case _:
            assert_never(match)


def _value_fits(condition: ValueMatch, value: str | None) -> bool:
    from controlplane.expression import is_match

    if value is None:
        return condition.kind == "absent"
    match condition.kind:
        case "absent":
            return False
        case "present":
            return True
        case "exact":
            return value == condition.value
        case "prefix":
            return value.startswith(condition.value)
        case "suffix":
            return value.endswith(condition.value)
        case "contains":
            return condition.value in value
        case "regex":
            return is_match(condition.value, value)
        case _:
            assert_never(condition.kind)


def _pairs(texts: list[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, _, value = text.partition("=")
        yield name.lower(), value


def _tell(steps: list[str], *, allowed: bool, reason: str, identity: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps({"allowed": allowed, "reason": reason, "identity": identity, "steps": steps}, indent=2))
        return
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step}")
    print("allowed" if allowed else f"refused: {reason}")
