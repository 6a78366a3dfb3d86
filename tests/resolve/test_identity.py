"""What a route asks: own conditions beside inherited ones, and the words that weaken."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import TypeAdapter

from controlplane.ir import identity as ir
from controlplane.manifests.models.identity import Auth, AuthField, Identity
from controlplane.resolve.identity import RouteMeaning, authorization, identity
from controlplane.translate.policies.extauthz import extauthz_policy, policy_name
from extauthz.policy import FromClaim, FromField, Policy

_AUTH: TypeAdapter[Auth] = TypeAdapter(AuthField)
WRITTEN: dict[str, Any] = {
    "issuers": {
        "main": {"issuer": "https://main", "audiences": ["api"], "secret": "s" * 32},
        "other": {"issuer": "https://other", "audiences": ["api"], "jwks": "https://other/jwks"},
    },
    "api_keys": {"pepper": "p"},
    "headers": {"X-User-Id": "sub", "x-tenant": "tenant_id", "x-plan": "plan"},
}


def resolved(**changes: Any) -> ir.Identity:
    return identity(Identity.model_validate(WRITTEN | changes), {}, lambda name: name)


def asked(*levels: Any, path: str = "/t/:tenant/x", host: str | None = None, **changes: Any) -> ir.Authorization:
    found, problems = authorization(
        tuple(map(_AUTH.validate_python, levels)), RouteMeaning(path=path, host=host), resolved(**changes)
    )
    assert not problems, problems
    return found


ROWS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "nothing anywhere: required": ((), {"mode": "required"}),
    "the nearest mode counts": (("public", "required"), {"mode": "required"}),
    "own roles beside inherited ones": (
        ({"roles": ["a", "b"]}, {"roles": {"all": ["c", "d"]}}),
        {"roles": (("a", "b"), ("c",), ("d",))},
    ),
    "the same role twice is once": (({"roles": "a"}, {"roles": "a"}), {"roles": (("a",),)}),
    "a mode leaves conditions alone": (({"roles": "a"}, "optional"), {"mode": "optional", "roles": (("a",),)}),
    "the word drops a condition": (
        ({"roles": "a", "scopes": "s"}, {"without": ["roles"]}),
        {"roles": (), "scopes": (("s",),)},
    ),
    "the word, and another condition in its place": (
        ({"roles": "a"}, {"without": ["roles"], "roles": "b"}),
        {"roles": (("b",),)},
    ),
    "a list is narrowed": (({"accept": ["jwt", "api-key"]}, {"accept": "api-key"}), {"accept": ("api_key",)}),
    "issuers are narrowed": (({}, {"issuers": "main"}), {"issuers": ("main",)}),
    "networks must all hold": (
        (
            {"ip": {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}},
            {"ip": {"allow": ["10.0.0.0/9"], "deny": ["10.2.0.0/16"]}},
        ),
        {"ip_allow": (("10.0.0.0/8",), ("10.0.0.0/9",)), "ip_deny": ("10.1.0.0/16", "10.2.0.0/16")},
    ),
    "public drops who and keeps where": (
        ({"roles": "a", "ip": {"deny": ["10.0.0.0/8"]}}, "public"),
        {"mode": "public", "roles": (), "ip_deny": ("10.0.0.0/8",), "asks": True, "failure_open": False},
    ),
    "public without rules asks nobody": (("public",), {"mode": "public", "asks": False}),
    "the tenant of the path": (({"tenant": ":tenant"},), {"tenants": (ir.TenantInPath(1),)}),
    "a fixed tenant": (({"tenant": "is acme"},), {"tenants": (ir.TenantFixed("acme"),)}),
    "open on failure, when it says so": (({"on_failure": "allow"},), {"failure_open": True}),
    "closed on failure, when it says so again": (
        ({"on_failure": "allow"}, {"on_failure": "deny"}),
        {"failure_open": False},
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_route_asks(case: str) -> None:
    levels, expected = ROWS[case]
    found = asked(*levels)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_tenant_of_the_host() -> None:
    assert asked({"tenant": "host"}, host="*.shop.test").tenants == (ir.TenantInHost(".shop.test"),)


def test_a_proof_is_for_public_routes_too_and_never_closes_them() -> None:
    found = asked("public", proof={"secret": "p" * 32})
    assert (found.asks, found.failure_open) == (True, True)


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _with_proof(pem: str) -> ir.Identity:
    return identity(Identity.model_validate({"proof": {"private_key": "key.pem"}}), {}, lambda name: pem)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(ed25519.Ed25519PrivateKey.generate(), "EdDSA"), (ec.generate_private_key(ec.SECP256R1()), "ES256")],
    ids=["Ed25519", "P-256"],
)
def test_a_proof_is_signed_as_its_key_can(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, algorithm: str
) -> None:
    proof = _with_proof(_pem(key)).proof
    assert proof is not None
    assert proof.algorithm == algorithm


@pytest.mark.parametrize(
    ("pem", "problem"),
    [("hello", "cannot be read"), (_pem(ec.generate_private_key(ec.SECP384R1())), "neither of P-256")],
    ids=["no key", "another curve"],
)
def test_a_key_that_signs_no_proof_is_refused(pem: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        _with_proof(pem)


@pytest.mark.parametrize(
    ("path", "host", "tenant"),
    [("/", "*.my_shop.test", "host"), ("/" + "a/" * 500 + ":t", None, ":t")],
    ids=["a host with an underscore", "deep in a path"],
)
def test_wherever_a_tenant_may_be_named_the_service_can_look(path: str, host: str | None, tenant: str) -> None:
    found = asked({"tenant": tenant}, path=path, host=host)
    document = extauthz_policy("g", resolved(), [found])
    assert Policy.parse(document.dump()) == document


PROBLEMS: dict[str, tuple[tuple[Any, ...], str]] = {
    "widening what is accepted": (({"accept": "jwt"}, {"accept": ["jwt", "api-key"]}), "without: [accept]"),
    "widening issuers": (({"issuers": "main"}, {"issuers": ["main", "other"]}), "without: [issuers]"),
    "an unknown issuer": (({"issuers": "mian"},), 'did you mean "main"'),
    "a credential that is not configured": (({"accept": "basic"},), "no basic credentials"),
    "a parameter that is not there": (({"tenant": ":tenent"},), 'did you mean ":tenant"'),
    "a host that names nobody": (({"tenant": "host"},), "*.example.com"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem(case: str) -> None:
    levels, text = PROBLEMS[case]
    meaning = RouteMeaning(path="/t/:tenant/x", host="shop.test")
    _, problems = authorization(tuple(map(_AUTH.validate_python, levels)), meaning, resolved())
    assert any(text in problem for problem in problems), problems


def test_nobody_could_pass_is_a_problem() -> None:
    _, problems = authorization((), RouteMeaning(path="/"), identity(Identity(), {}, str))
    assert "nobody could pass" in problems[0]


def test_equal_routes_share_a_policy_and_its_name_says_what_it_asks() -> None:
    first, second, third = asked({"roles": "a"}), asked({}, {"roles": "a"}), asked({"roles": "b"})
    assert policy_name(first) == policy_name(second) != policy_name(third)
    assert policy_name(asked()) == "required"
    assert policy_name(asked({"on_failure": "allow"})) == "required"
    document = extauthz_policy("g", resolved(), [first, second, third])
    assert len(document.policies) == 2


def test_the_document_is_the_same_bytes_for_the_same_manifest() -> None:
    document = extauthz_policy("g", resolved(), [asked({"roles": "a"}), asked()])
    again = extauthz_policy("g", resolved(), [asked(), asked({"roles": "a"})])
    assert document.dump() == again.dump()
    assert Policy.parse(document.dump()) == document


def test_a_header_is_a_part_of_the_identity_where_its_claim_is() -> None:
    headers = extauthz_policy("g", resolved(), []).headers
    assert headers == {
        "x-user-id": FromField(field="user"),
        "x-tenant": FromField(field="tenant"),
        "x-plan": FromClaim(claim="plan"),
    }
