"""The words of `causeway status`: what is served, and how long a client has been in its state."""

from __future__ import annotations

import pytest

from controlplane.cli.status import heading, lasts, wrong_with


@pytest.mark.parametrize(
    ("client", "seconds"),
    [
        pytest.param({"verdict": "synced", "lag_s": 0.0, "since_s": 9.0}, 9.0, id="synced: since it has all of it"),
        pytest.param({"verdict": "rejected", "lag_s": 0.0, "since_s": 9.0}, 9.0, id="rejected: since it has the rest"),
        pytest.param({"verdict": "silent", "lag_s": 5.0, "since_s": 9.0}, 5.0, id="silent: since it should have more"),
        pytest.param(
            {"verdict": "frozen", "lag_s": 0.0, "since_s": 9.0, "frozen_s": 3.0}, 3.0, id="frozen: of that alone"
        ),
        pytest.param({"verdict": "pending", "lag_s": 0.0, "since_s": None}, None, id="just connected: not known"),
    ],
)
def test_how_long_a_state_lasts(client: dict[str, object], seconds: float | None) -> None:
    assert lasts(client) == seconds


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param(
            {"revision": "r", "source": "manifests", "routes": 3}, "3 routes of f, from manifests", id="manifests"
        ),
        pytest.param(
            {"revision": "r", "source": "manifests", "routes": 1}, "1 route of f, from manifests", id="one route"
        ),
        pytest.param(
            {"revision": "r", "source": "last known good", "routes": 0}, "last known good of f", id="after a loss"
        ),
        pytest.param({"revision": "", "source": "manifests"}, "nothing of f is served yet", id="nothing yet"),
    ],
)
def test_what_is_served(found: dict[str, object], words: str) -> None:
    assert heading({"folder": "f", **found}) == words


def test_a_refusal_is_told_with_its_place() -> None:
    refused = {"type": "Listener", "nack": "cannot bind", "nack_age_s": 3.0}
    client = {"id": "n2", "types": [{**refused, "nack_origins": ["a.yaml:3:7"]}, refused, {"nack": None}]}
    assert list(wrong_with(client)) == [
        "n2 refused Listener 3.0s ago: a.yaml:3:7: cannot bind",
        "n2 refused Listener 3.0s ago: cannot bind",
    ]
