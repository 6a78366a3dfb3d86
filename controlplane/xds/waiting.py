"""Waiting until every client serves what the control plane serves: the proof behind `causeway apply --wait`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from controlplane.xds.controlplane import SERVICE_AGENT, ControlPlane
from controlplane.xds.report import refusal, refused_alone
from controlplane.xds.status import ClientStatus, Verdict

_MISSED = ("envoy", SERVICE_AGENT)
"""Applications that speak gRPC by themselves come and go as they like; these should stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """How it ended. `is_live`: every connected client has accepted all of the revision, and none went without it."""

    is_live: bool
    revision: str
    took_s: float
    clients: tuple[ClientStatus, ...]
    reasons: tuple[str, ...]
    """Why not, one sentence each."""


async def wait_until_live(plane: ControlPlane, timeout_s: float) -> Waited:
    """Returns when every connected client serves the present revision, one refused part of it, or the time is over.

    An Envoy or a service of ours that goes away before it has accepted everything is waited for: it may serve what was
    before, and nobody knows. One that went with all of it is not missed.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    deadline = began + timeout_s
    gone: dict[str, ClientStatus] = {}
    pending: list[ClientStatus] = []
    while True:
        clients = plane.status().clients
        present = {client.id for client in clients}
        missed = (*gone.values(), *(client for client in pending if client.agent in _MISSED))
        gone = {client.id: client for client in missed if client.id not in present}
        pending = [client for client in clients if client.verdict in (Verdict.PENDING, Verdict.SILENT)]
        left = deadline - loop.time()
        if not (pending or gone) or left <= 0:
            late = (_late(client, timeout_s) for client in pending)
            lost = (f'client "{name}" has gone away before it had accepted everything' for name in gone)
            reasons = (*late, *lost, *_refusals(plane))
            return Waited(
                is_live=not reasons,
                revision=plane.revision,
                took_s=loop.time() - began,
                clients=clients,
                reasons=reasons,
            )
        try:
            async with asyncio.timeout(left):
                await plane.news()
        except TimeoutError:
            continue


def _late(client: ClientStatus, timeout_s: float) -> str:
    waiting = ", ".join(one.type for one in client.types if one.pending or one.state == "WAITING") or "its next request"
    return f'client "{client.id}" has not accepted everything after {timeout_s:g} s (waiting for {waiting})'


def _refusals(plane: ControlPlane) -> tuple[str, ...]:
    connected = {session.stream.node.kind for session in plane.sessions if session.stream.node is not None}
    of_kinds = [held for held in plane.quarantine.all() if held.kind in connected]
    known = {(held.type_url, held.part or held.name) for held in of_kinds}
    return (
        *(refusal(held, held.client) for held in of_kinds),
        *(
            refusal(verdict, node.id)
            for node, verdict in refused_alone(plane)
            if plane.is_wanted(verdict) and (verdict.type_url, verdict.name) not in known
        ),
    )
