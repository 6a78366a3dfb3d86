"""Policies that left the manifests are kept for as long as a client's routes name them, and no longer."""

from __future__ import annotations

import json

import pytest

from controlplane.departures import GRACE_S, Departures
from controlplane.ir.identity import Authorization
from controlplane.snapshot.resource import EXTENSION, Resource, field
from controlplane.snapshot.snapshot import Snapshot
from controlplane.translate.http_filters.ext_authz import _asking, policies_named
from controlplane.translate.policies.departing import policies_of
from controlplane.translate.policies.documents import authorization_document
from controlplane.translate.policies.extauthz import policy_name
from extauthz.policy import CONTEXT_POLICY_KEY, Policy

KEY = (EXTENSION, "causeway.extauthz")


def document(*names: str) -> Resource:
    return authorization_document(
        Policy.parse(json.dumps({"policies": {name: {"mode": "required"} for name in names}}))
    )


def naming(*names: str) -> bytes:
    return b"...".join(field(1, CONTEXT_POLICY_KEY.encode()) + field(2, name.encode()) for name in names)


def known(departures: Departures, said: Resource) -> set[str]:
    found = departures.joined(Snapshot.of([said]), KEY).get(*KEY)
    assert found is not None
    return set(policies_of(found))


def test_what_routes_name_is_read_from_their_bytes() -> None:
    assert policies_named(naming("a", "required-0123456789", "\n")) == {"a", "required-0123456789", "\n"}
    assert policies_named(b"causeway.policy") == frozenset()


def test_a_policy_is_kept_while_a_route_names_it_and_then_forgotten() -> None:
    departures, old, new = Departures(), document("a", "b"), document("c")
    departures.say(old, 0.0)
    departures.say(new, 1.0)
    assert departures.look(new, lambda: [naming("a", "c")], GRACE_S)
    assert known(departures, new) == {"a", "c"}, "and not b, which nobody names"
    assert not departures.look(new, lambda: [naming("a")], GRACE_S + 100)
    assert known(departures, new) == {"a", "c"}
    assert departures.look(new, lambda: [naming("c")], GRACE_S + 200)
    assert known(departures, new) == {"c"}
    assert departures.joined(snapshot := Snapshot.of([new]), KEY) is snapshot


def test_a_policy_that_comes_back_is_not_kept_beside_itself() -> None:
    departures, old, new = Departures(), document("a"), document("b")
    departures.say(old, 0.0)
    assert departures.look(new, lambda: [naming("a")], GRACE_S)
    assert departures.look(old, lambda: [naming("a")], GRACE_S + 1)
    assert departures.joined(snapshot := Snapshot.of([old]), KEY) is snapshot


def test_an_edit_that_has_just_been_made_keeps_nothing() -> None:
    """Clients take a moment to get it, and the service remembers for so long."""
    departures, old, new = Departures(), document("a"), document("b")
    departures.say(old, 5.0)
    assert not departures.look(new, lambda: pytest.fail("nobody is asked"), GRACE_S + 4.9)
    assert departures.look(new, lambda: [naming("a")], GRACE_S + 5)


def test_what_was_said_some_edits_ago_is_kept_too() -> None:
    departures = Departures()
    documents = [document(name) for name in "abcd"]
    for number, one in enumerate(documents):
        departures.say(one, float(number))
    assert departures.look(documents[-1], lambda: [naming("a"), naming("b", "d")], GRACE_S + 2)
    assert known(departures, documents[-1]) == {"a", "b", "d"}


def test_a_mode_without_conditions_is_named_as_its_policy_is() -> None:
    name = policy_name(Authorization(mode="required"))
    assert policies_named(bytes(_asking(name))) == {name}
