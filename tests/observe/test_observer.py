"""What the observer says of critical services, from the circuits it has seen."""

from __future__ import annotations

import pytest

from controlplane.observe.circuits import Circuit, EndpointSeen, State
from controlplane.observe.observer import Observer


def circuit(service: str, *available: bool) -> Circuit:
    endpoints = tuple(
        EndpointSeen(address=f"10.0.0.{number}:80", is_ejected=False, is_failing_checks=not is_available)
        for number, is_available in enumerate(available)
    )
    return Circuit(service=service, state=State.CLOSED, since_s=0.0, endpoints=endpoints)


ROWS = {
    "nothing seen yet": ((), None),
    "one endpoint is enough": ((circuit("orders", False, True), circuit("tickets", True)), None),
    "none is too few": ((circuit("orders", False, False), circuit("tickets", True)), "no healthy endpoint: orders"),
    "a name that does not resolve is no endpoint": ((circuit("orders"),), "no healthy endpoint: orders"),
    "each is named": ((circuit("orders"), circuit("tickets", False)), "no healthy endpoint: orders, tickets"),
    "others do not count": ((circuit("extras", False), circuit("orders", True)), None),
}


@pytest.mark.parametrize("case", ROWS)
def test_ready_while_each_critical_service_has_an_endpoint(case: str) -> None:
    observer = Observer(())
    observer.critical = ("orders", "tickets")
    observer.circuits, expected = ROWS[case]
    assert observer.problem() == expected
