"""The control plane's status, put together from its sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from controlplane.snapshot.resource import Resource
from controlplane.xds.channel import Channel
from controlplane.xds.protocol import Node
from controlplane.xds.protocol import Verdict as Refused
from controlplane.xds.status import ClientStatus, KeptBack, Status, TypeStatus, Verdict

if TYPE_CHECKING:
    from controlplane.xds.controlplane import ControlPlane
    from controlplane.xds.quarantine import Held
    from controlplane.xds.session import Session


def status(plane: ControlPlane, now: float, wall: float) -> Status:
    snapshot, held = plane.snapshot, plane.quarantine.by_type()
    present = (session for session in plane.sessions if session.stream.node is not None)
    return Status(
        revision=plane.revision,
        version=snapshot.version if snapshot is not None else "",
        served_s=now - plane.served_at,
        source=plane.source,
        resources={short(url): len(named) for url, named in snapshot.by_type.items()} if snapshot is not None else {},
        clients=tuple(client(plane, session, held, now, wall) for session in present),
        kept_back=tuple(kept_back(held, wall) for held in plane.quarantine.all()),
        problems=plane.problems,
        problems_age_s=now - plane.problems_at if plane.problems_at is not None else None,
        held=plane.held,
    )


def short(type_url: str) -> str:
    return type_url.rpartition(".")[2]


def client(
    plane: ControlPlane, session: Session, held: Mapping[tuple[str, str], Sequence[Held]], now: float, wall: float
) -> ClientStatus:
    """`held` is what is kept back, by kind and type."""
    node = session.stream.node or Node()
    is_current = session.revision in (plane.revision, _on_trial(plane, node)) and session.stream.is_settled
    out_at, reached_at = max(plane.out_at, session.began), session.revision_at
    return ClientStatus(
        id=node.id,
        cluster=node.cluster,
        agent=node.agent,
        version=node.version,
        kind=node.kind,
        peer=session.peer,
        protocol=session.stream.variant.value + ("" if session.stream.type_url else " ads"),
        connected_s=now - session.began,
        heard_s=now - session.heard_at,
        verdict=_verdict(plane, session, now),
        revision=session.revision,
        since_s=now - reached_at if reached_at is not None else None,
        took_s=max(0.0, reached_at - out_at) if is_current and reached_at is not None else None,
        lag_s=0.0 if is_current else now - out_at,
        drifted_to=_who(session.drifted_to) if session.drifted_to is not None else None,
        nacks=session.nacks,
        responses=session.responses,
        bytes_sent=session.bytes_sent,
        types=tuple(
            _type(channel, held.get((node.kind, channel.type_url), ()), node.id, now, wall)
            for channel in session.stream.channels.values()
        ),
    )


def _who(node: Node) -> str:
    return f"{node.id} of {node.cluster}" if node.cluster else node.id


def _on_trial(plane: ControlPlane, node: Node) -> str:
    """The revision that the client is one of few to have."""
    return plane.trial.revision if plane.trial is not None and plane.trial.includes(node.id) else plane.revision


def _verdict(plane: ControlPlane, session: Session, now: float) -> Verdict:
    stream = session.stream
    if stream.node is not None and session.revision != plane.revision and stream.is_settled:
        trial = plane.trial
        if trial is not None and trial.includes(stream.node.id) and session.revision == trial.revision:
            return Verdict.CANARY
    if session.revision == plane.revision and stream.is_settled:
        kind = stream.node.kind if stream.node is not None else ""
        is_refusing = plane.quarantine.of_kind(kind) or session.is_refusing
        return Verdict.REJECTED if is_refusing else Verdict.SYNCED
    unanswered = [offer.sent_at for channel in stream.channels.values() for offer in channel.offers.values()]
    if unanswered and now - min(unanswered) > plane.policy.silent_after_s:
        return Verdict.SILENT
    return Verdict.PENDING


def _type(channel: Channel, held: Sequence[Held], client: str, now: float, wall: float) -> TypeStatus:
    holds = {name for name, form in channel.sent.items() if isinstance(form, Resource)}
    # Once something is kept back, the stream is not asked for it any more: what this client said of it stays true.
    own = max((one for one in held if one.client == client), key=lambda one: one.since, default=None)
    if channel.nack is not None:
        refusal, refused_s = channel.nack.text, now - channel.nack.at
    elif own is not None:
        refusal, refused_s = own.text, wall - own.since
    else:
        refusal, refused_s = None, None
    if channel.offers:
        state = "WAITING"
    elif channel.pinned or refusal is not None:
        state = "NACKED"
    elif channel.acked_at is not None or channel.acked:
        state = "ACKED"
    else:
        state = "NONE"
    refused = [*((v.text, v.origins) for v in channel.pinned.values()), *((h.text, h.origins) for h in held)]
    return TypeStatus(
        type=short(channel.type_url),
        subscribed="*" if channel.subscription.is_wildcard else str(len(channel.subscription.names)),
        holds=len(holds),
        accepted=sum(1 for name in holds if channel.acked.get(name) is channel.sent[name]),
        pending=len(channel.dirty),
        version=channel.last_version,
        state=state,
        acked_age_s=now - channel.acked_at if channel.acked_at is not None else None,
        nack=refusal,
        nack_origins=tuple(
            dict.fromkeys(str(place) for text, origins in refused if text == refusal for place in origins)
        ),
        nack_age_s=refused_s,
        kept_back=tuple(
            sorted({*channel.pinned, *(n for n, t in channel.part_trials.items() if t.guilty), *(h.name for h in held)})
        ),
    )


def kept_back(held: Held, wall: float) -> KeptBack:
    if not held.replacement:
        serving = "nothing"
    else:
        serving = "its last accepted form or its fallback" if held.part else "its last accepted form"
    return KeptBack(
        kind=held.kind,
        type=short(held.type_url),
        resource=held.name,
        part=held.part,
        origins=tuple(map(str, held.origins)),
        text=held.text,
        client=held.client,
        age_s=wall - held.since,
        serving=serving,
    )


def refused_alone(plane: ControlPlane) -> Iterator[tuple[Node, Refused]]:
    """What connected clients refuse, each for itself."""
    for session in plane.sessions:
        for channel in session.stream.channels.values():
            for verdict in channel.pinned.values():
                yield session.stream.node or Node(), verdict


def refusal(refused: Held | Refused, client: str) -> str:
    """What a client refuses, with its place, in one sentence."""
    name = refused.part or refused.name
    where = ", ".join(map(str, refused.origins)) or name
    return f'{where}: {client} refuses {short(refused.type_url)} "{name}": {refused.text}'
