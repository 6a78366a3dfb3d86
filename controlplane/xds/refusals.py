"""What one client refuses, and what that means for the others of its kind.

Clients of a kind run the same program: what one does not accept, the others would not either, and are spared it. Unless
it is about something else, a port that is taken on the host of the one; or another of them accepts it. So before
something is kept back from all of them, those who are being asked the same are heard; and who accepts it later has it
back for everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.snapshot.resource import Resource
from controlplane.xds import told
from controlplane.xds.channel import ABSENT, Channel
from controlplane.xds.protocol import Verdict

if TYPE_CHECKING:
    from controlplane.xds.controlplane import ControlPlane
    from controlplane.xds.session import Session


class Refusals:
    """Weighs verdicts for a control plane, which keeps them (`quarantine`) and is told of changes."""

    def __init__(self, plane: ControlPlane, patience_s: float) -> None:
        self._plane = plane
        self._patience_s = patience_s
        self._open: dict[tuple[Session, Verdict], bool] = {}
        """Verdicts that wait for others; whether they have waited long enough."""
        self._told: set[tuple[Session, str, str]] = set()
        """By name and version: what was said of a client alone, once."""

    def hear(self, session: Session) -> bool:
        """Takes in what the client has found guilty, and what it has accepted. True when its kind gets other things."""
        verdicts, kind = session.stream.verdicts(), _kind(session)
        is_other = self._lift(session, kind)
        waiting = [one for one in self._open if _kind(one[0]) == kind] if self._open else []
        for one in (*waiting, *((session, verdict) for verdict in verdicts)):
            is_other = self._weigh(*one) or is_other
        return is_other

    def forget(self, session: Session) -> None:
        """The client has gone."""
        self._open = {one: is_due for one, is_due in self._open.items() if one[0] is not session}
        self._told = {one for one in self._told if one[0] is not session}

    def _weigh(self, session: Session, verdict: Verdict) -> bool:
        case = (session, verdict)
        is_due = self._open.pop(case, None)
        others = list(self._channels(session, verdict))
        if verdict.may_pass or any(one.accepted_form(verdict.name).version == verdict.version for one in others):
            if (once := (session, verdict.name, verdict.version)) not in self._told:
                self._told.add(once)
                told.refused_alone(verdict, session.stream.node.id if session.stream.node else "")
            return False
        if not is_due and any(_is_asked(one, verdict) for one in others):
            self._open[case] = False
            if is_due is None:
                asyncio.get_running_loop().call_later(self._patience_s, self._time_is_up, case)
            return False
        node = session.stream.node
        held = self._plane.quarantine.add(_kind(session), node.id if node else "", verdict, self._plane.wall())
        if held is not None:
            told.kept_back(held)
        return held is not None

    def _time_is_up(self, case: tuple[Session, Verdict]) -> None:
        if case in self._open:
            self._open[case] = True
            case[0].wake()

    def _lift(self, session: Session, kind: str) -> bool:
        """What was kept back for another's sake and this client has accepted."""
        node, lifted = session.stream.node, []
        for held in self._plane.quarantine.of_kind(kind):
            channel = session.stream.channels.get(held.type_url)
            if channel is None or (node is not None and held.client == node.id):
                continue
            form = channel.accepted_form(held.name)
            if isinstance(form, Resource) and held.is_about(form):
                lifted.append(held)
        for held in lifted:
            told.lifted(held, node.id if node is not None else "")
            self._plane.quarantine.drop(held)
        return bool(lifted)

    def _channels(self, session: Session, verdict: Verdict) -> Iterator[Channel]:
        """Of the other clients of the kind, for the type."""
        kind = _kind(session)
        for other in self._plane.sessions:
            if other is not session and other.stream.node is not None and _kind(other) == kind:
                channel = other.stream.channels.get(verdict.type_url)
                if channel is not None:
                    yield channel


def _kind(session: Session) -> str:
    return session.stream.node.kind if session.stream.node is not None else ""


def _is_asked(channel: Channel, verdict: Verdict) -> bool:
    """The client has not answered yet to what the other refused."""
    return any(offer.changes.get(verdict.name, ABSENT).version == verdict.version for offer in channel.offers.values())
