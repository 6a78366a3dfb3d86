"""What a client may ask for has an end, also when it asks little by little."""

from __future__ import annotations

import grpc
import pytest

from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.protocol import ProtocolError
from controlplane.xds.subscription import NAMES_PER_TYPE, Subscription
from tests.support.waiting import until
from tests.xds.playbook import state
from tests.xds.rows import Variant
from tests.xds.served import serving
from tests.xds.wire_client import connected


def test_names_of_many_requests_have_a_limit_together() -> None:
    subscription = Subscription(legacy_allowed=False)
    half = NAMES_PER_TYPE // 2
    for first in (0, half):
        subscription.change([f"n{number}" for number in range(first, first + half)], [], is_first=not first)
    subscription.change(["n0"], [], is_first=False)  # it was counted already
    subscription.change(["other"], ["n0"], is_first=False)  # one for one
    with pytest.raises(ProtocolError, match="names of one type"):
        subscription.change(["one more"], [], is_first=False)


async def test_a_client_that_asks_for_ever_more_is_sent_away_and_leaves_nothing() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        for request in range(2):
            await client.ask("CDS", *(f"n{request}.{number}" for number in range(40_000)))
            await client.hear()
        await client.ask("CDS", *(f"more.{number}" for number in range(40_000)))
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "names of one type" in await client.details()
        await until("no session", lambda: not plane.sessions)
