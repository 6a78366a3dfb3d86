"""The clients that have what is on trial: who could be one, whether they have accepted it, what they refuse of it."""

from __future__ import annotations

from collections.abc import Set

from controlplane.xds import report
from controlplane.xds.canary import Trial, choose
from controlplane.xds.controlplane import ControlPlane


def envoys(plane: ControlPlane) -> frozenset[str]:
    """The connected clients that can be part of a cohort."""
    nodes = (session.stream.node for session in plane.sessions)
    return frozenset(node.id for node in nodes if node is not None and not plane.is_service(node))


def connected(plane: ControlPlane) -> frozenset[str]:
    """Every client that has said who it is."""
    return frozenset(session.stream.node.id for session in plane.sessions if session.stream.node is not None)


def choose_cohort(plane: ControlPlane, trial: Trial, measured: Set[str] = frozenset()) -> Trial:
    """Shows the change to some of the Envoys that are connected now, first of all to those that can be measured."""
    return plane.show_to(choose(trial.size, envoys(plane), measured))


def has_accepted(plane: ControlPlane) -> bool:
    """Every client of the canary is connected and has all of it."""
    trial = plane.trial
    return (
        trial is not None
        and trial.cohort <= connected(plane)
        and all(
            session.stream.is_settled and session.stream.target is plane.target_of(session.stream.node)
            for session in plane.sessions
            if session.stream.node is not None and trial.includes(session.stream.node.id)
        )
    )


def refusals(plane: ControlPlane) -> tuple[str, ...]:
    """What clients refuse of what is on trial and was not refused before, one sentence each."""
    trial, served = plane.trial, plane.snapshot
    if trial is None or served is None:
        return ()
    earlier = {held.key for held in plane.quarantine.about(served)}
    of_kinds = (
        report.refusal(held, held.client) for held in plane.quarantine.about(trial.shown) if held.key not in earlier
    )
    of_clients = (
        report.refusal(verdict, node.id)
        for node, verdict in report.refused_alone(plane)
        if trial.includes(node.id)
        and (resource := trial.shown.get(verdict.type_url, verdict.name)) is not None
        and resource.version == verdict.version
        and served.get(verdict.type_url, verdict.name) is not resource
    )
    return (*of_kinds, *of_clients)
