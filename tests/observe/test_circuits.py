"""A circuit's states from what Envoy says about endpoints, under a moved clock."""

from __future__ import annotations

from controlplane.observe.circuits import Change, Circuits, EndpointSeen, State

OPEN_FOR = {"tickets": 30.0}


def seen(*, ejected: bool, successes: int = 0, address: str = "10.0.0.1:80") -> EndpointSeen:
    return EndpointSeen(address=address, is_ejected=ejected, successes=successes)


def run(*steps: tuple[float, tuple[EndpointSeen, ...]]) -> list[tuple[State, float | None]]:
    circuits = Circuits()
    found = []
    for now, endpoints in steps:
        (circuit,), _ = circuits.observe({"tickets": endpoints}, OPEN_FOR, now)
        found.append((circuit.state, circuit.until_retest_s))
    return found


def test_a_circuit_opens_counts_down_is_tested_and_closes() -> None:
    assert run(
        (0, (seen(ejected=False, successes=5),)),
        (1, (seen(ejected=True, successes=5),)),
        (11, (seen(ejected=True, successes=5),)),
        (31, (seen(ejected=False, successes=5),)),
        (32, (seen(ejected=False, successes=6),)),
    ) == [
        (State.CLOSED, None),
        (State.OPEN, 30.0),
        (State.OPEN, 20.0),
        (State.HALF_OPEN, None),
        (State.CLOSED, None),
    ]


def test_a_failed_test_opens_it_again_for_the_whole_time() -> None:
    states = run((0, (seen(ejected=True),)), (30, (seen(ejected=False),)), (31, (seen(ejected=True),)))
    assert states == [(State.OPEN, 30.0), (State.HALF_OPEN, None), (State.OPEN, 30.0)]


def test_without_traffic_nothing_is_tested_and_it_stays_half_open() -> None:
    states = run((0, (seen(ejected=True),)), (30, (seen(ejected=False),)), (3_000, (seen(ejected=False),)))
    assert states[1:] == [(State.HALF_OPEN, None)] * 2


def test_one_endpoint_left_keeps_it_closed() -> None:
    other = seen(ejected=False, address="10.0.0.2:80")
    assert run((0, (seen(ejected=True), other))) == [(State.CLOSED, None)]


def test_a_service_without_endpoints_is_not_open() -> None:
    assert run((0, ())) == [(State.CLOSED, None)]


def test_the_retest_is_due_when_the_first_endpoint_is() -> None:
    late = seen(ejected=True, address="10.0.0.2:80")
    back = seen(ejected=False, address="10.0.0.2:80")
    assert run((0, (seen(ejected=True), back)), (10, (seen(ejected=True), late)))[1] == (State.OPEN, 20.0)


def test_an_endpoint_that_was_never_out_closes_it() -> None:
    """The service moved while its circuit was open: nothing that could be half open is left."""
    moved = seen(ejected=False, address="10.0.0.2:80")
    assert run((0, (seen(ejected=True),)), (1, (moved,)))[1] == (State.CLOSED, None)


def test_a_success_before_it_was_seen_back_closes_it() -> None:
    """Requests come at any time, looks once a second."""
    states = run((0, (seen(ejected=True, successes=5),)), (30, (seen(ejected=False, successes=6),)))
    assert states[1:] == [(State.CLOSED, None)]


def test_a_success_that_was_on_its_way_when_it_was_taken_out_proves_nothing() -> None:
    states = run(
        (0, (seen(ejected=True, successes=5),)),
        (1, (seen(ejected=True, successes=6),)),
        (30, (seen(ejected=False, successes=6),)),
    )
    assert states[2:] == [(State.HALF_OPEN, None)]


def test_counters_that_began_anew_close_it() -> None:
    """An edit made a new cluster, whose circuit is closed and whose counters are zero."""
    states = run(
        (0, (seen(ejected=True, successes=5),)),
        (1, (seen(ejected=False, successes=5),)),
        (2, (seen(ejected=False, successes=0),)),
    )
    assert [state for state, _ in states] == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_changes_are_told_once() -> None:
    circuits = Circuits()
    told = [circuits.observe({"tickets": (seen(ejected=e),)}, OPEN_FOR, t)[1] for t, e in ((0, True), (1, True))]
    assert told == [(Change(service="tickets", before=State.CLOSED, after=State.OPEN),), ()]


def test_a_service_that_is_gone_is_forgotten() -> None:
    circuits = Circuits()
    circuits.observe({"tickets": (seen(ejected=True),)}, OPEN_FOR, 0)
    circuits.observe({}, OPEN_FOR, 1)
    (circuit,), _ = circuits.observe({"tickets": (seen(ejected=False),)}, OPEN_FOR, 2)
    assert circuit.state is State.CLOSED
