"""serving.ads: the conversation as tables, then the client against a real gRPC server, then its memory on disk."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from serving import kept
from serving.address import Address, parse_address
from serving.ads import EXTENSION, AdsClient, Backoff, Subscription, policy_json
from serving.kept import Held
from tests.serving.ads_server import AdsServer, policy, response

NODE = base_pb2.Node(id="n", cluster="c")


class Applied(dict[str, bytes]):
    """What is in effect. A body that starts with `bad` is refused."""

    def apply(self, name: str, body: bytes) -> None:
        if body.startswith(b"bad"):
            raise ValueError(f"rules.0.path: found {body.decode()}")
        self[name] = body


@pytest.fixture
def applied() -> Applied:
    return Applied()


@pytest.mark.parametrize(
    ("message", "effect", "error"),
    [
        pytest.param(response("1", {"a": ("v1", b"A")}), {"a": b"A"}, "", id="a good resource is ACKed"),
        pytest.param(
            response("1", {"a": ("v1", b"bad 1")}), {}, "a: rules.0.path: found bad 1", id="a bad resource is NACKed"
        ),
        pytest.param(
            response("1", {"a": ("v1", b"A"), "b": ("v1", b"bad")}),
            {"a": b"A"},
            "b: rules.0.path: found bad",
            id="a good resource beside a bad one takes effect",
        ),
        pytest.param(
            response("1", {"a": ("v1", b"bad 1"), "b": ("v1", b"bad 2")}),
            {},
            "a: rules.0.path: found bad 1; b: rules.0.path: found bad 2",
            id="every problem is in the NACK",
        ),
        pytest.param(
            response("1", {"other": ("v1", b"A")}),
            {},
            "other: not subscribed to",
            id="what was not asked for is NACKed",
        ),
        pytest.param(response("1"), {}, "", id="an empty response is ACKed"),
        pytest.param(response("1", removed=("a", "z")), {}, "", id="a removal is ACKed"),
        pytest.param(
            discovery_pb2.DeltaDiscoveryResponse(type_url="x/Y", nonce="1"),
            {},
            f"type_url: expected {EXTENSION}, found x/Y",
            id="another type is NACKed",
        ),
        pytest.param(
            discovery_pb2.DeltaDiscoveryResponse(
                type_url=EXTENSION,
                nonce="1",
                resources=[discovery_pb2.Resource(name="a", resource=any_pb2.Any(type_url="x/Y"))],
            ),
            {},
            f"a: expected {EXTENSION}, found x/Y",
            id="a resource of another type is NACKed",
        ),
        pytest.param(
            discovery_pb2.DeltaDiscoveryResponse(
                type_url=EXTENSION, nonce="1", resources=[discovery_pb2.Resource(name="a", version="v1")]
            ),
            {},
            "",
            id="a heartbeat without a body is ACKed and applies nothing",
        ),
    ],
)
def test_a_response_is_answered(
    applied: Applied, message: discovery_pb2.DeltaDiscoveryResponse, effect: dict[str, bytes], error: str
) -> None:
    subscription = Subscription(["a", "b"], applied.apply)
    request = subscription.answer(message)
    assert applied == effect
    assert (request.response_nonce, request.type_url) == (message.nonce, message.type_url)
    assert (request.error_detail.message, request.HasField("error_detail")) == (error, bool(error))
    assert not request.resource_names_subscribe


def test_a_stream_opens_with_what_is_held(applied: Applied) -> None:
    subscription = Subscription(["b", "a"], applied.apply)
    assert not subscription.opening(NODE).initial_resource_versions
    subscription.answer(response("1", {"a": ("v1", b"A"), "b": ("v7", b"bad")}))
    opening = subscription.opening(NODE)
    assert list(opening.resource_names_subscribe) == ["a", "b"]
    assert dict(opening.initial_resource_versions) == {"a": "v1"}
    assert (opening.node.id, opening.response_nonce) == ("n", "")


def test_a_rejected_version_leaves_the_last_good_one_in_effect(applied: Applied) -> None:
    subscription = Subscription(["a"], applied.apply)
    subscription.answer(response("1", {"a": ("v1", b"A")}))
    subscription.answer(response("2", {"a": ("v2", b"bad")}))
    assert applied == {"a": b"A"}
    assert subscription.held["a"].version == "v1"
    assert subscription.rejected == {"a": "rules.0.path: found bad"}
    subscription.answer(response("3", {"a": ("v3", b"C")}))
    assert (applied, subscription.rejected) == ({"a": b"C"}, {})


def test_a_removed_resource_stays_in_effect_unless_asked(applied: Applied) -> None:
    removed: list[str] = []
    keeping = Subscription(["a"], applied.apply)
    dropping = Subscription(["a"], applied.apply, on_removed=removed.append)
    for subscription in (keeping, dropping):
        subscription.answer(response("1", {"a": ("v1", b"A")}))
        subscription.answer(response("2", removed=("a",)))
    assert (keeping.held.keys(), dropping.held.keys(), removed) == ({"a"}, set(), ["a"])


def test_what_was_kept_and_no_longer_validates_is_asked_for_again(applied: Applied) -> None:
    subscription = Subscription(["a", "b"], applied.apply)
    held = {"a": Held(version="v1", body=b"A"), "b": Held(version="v1", body=b"bad"), "c": Held(version="v", body=b"")}
    subscription.restore(held)
    assert applied == {"a": b"A"}
    assert dict(subscription.opening(NODE).initial_resource_versions) == {"a": "v1"}
    assert not subscription.is_complete


def test_a_very_long_error_is_cut(applied: Applied) -> None:
    subscription = Subscription(["a"], applied.apply)
    assert len(subscription.answer(response("1", {"a": ("v", b"bad" * 9000)})).error_detail.message) == 4000


def test_the_policy_s_text_is_read_from_its_envelope() -> None:
    assert policy_json(policy("x", '{"a":1}')) == '{"a":1}'


@pytest.mark.parametrize(
    ("body", "problem"), [(b"\xff\xff", "not a TypedExtensionConfig"), (b"", "expected a google.protobuf.StringValue")]
)
def test_another_envelope_is_refused_with_a_reason(body: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        policy_json(body)


@pytest.mark.parametrize(
    ("failures", "share", "expected"),
    [(1, 0.0, 0.05), (1, 1.0, 0.1), (2, 1.0, 0.2), (5, 1.0, 1.6), (8, 1.0, 10.0), (9000, 1.0, 10.0), (9000, 0.0, 5.0)],
)
def test_waits_grow_to_a_ceiling_and_are_spread(failures: int, share: float, expected: float) -> None:
    assert Backoff(first_s=0.1, most_s=10).wait_s(failures, share) == pytest.approx(expected)


@asynccontextmanager
async def connected(
    applied: Applied, *names: str, at: Address | None = None, state: Path | None = None
) -> AsyncIterator[tuple[AdsServer, AdsClient, Address]]:
    server = AdsServer()
    bound = await server.start(at or parse_address("127.0.0.1:0"))
    client = AdsClient(
        bound,
        Subscription(names, applied.apply),
        node_id="n",
        node_cluster="c",
        state_file=state,
        backoff=Backoff(first_s=0.01, most_s=0.05),
    )
    client.load()
    running = asyncio.create_task(client.run())
    try:
        yield server, client, bound
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await server.stop()


async def test_the_client_subscribes_applies_and_acknowledges(applied: Applied, tmp_path: Path) -> None:
    at = parse_address(f"unix:{tmp_path}/xds.sock")
    async with connected(applied, "a", at=at) as (server, client, _):
        opening = await server.next_request()
        assert (opening.node.id, opening.node.cluster, opening.type_url) == ("n", "c", EXTENSION)
        assert "not received yet" in str(client.problem()) or "no connection" in str(client.problem())
        await server.send.put(response("n1", {"a": ("v1", b"A")}))
        ack = await server.next_request()
        assert (ack.response_nonce, ack.HasField("error_detail")) == ("n1", False)
        assert applied == {"a": b"A"}
        await asyncio.wait_for(client.synced.wait(), 5)
        assert (client.problem(), client.stale_s(), client.versions) == (None, 0.0, {"a": "v1"})
        await server.send.put(response("n2", {"a": ("v2", b"bad")}))
        nack = await server.next_request()
        assert (nack.response_nonce, nack.error_detail.message) == ("n2", "a: rules.0.path: found bad")
        assert (client.problem(), client.status()["rejected"]) == (None, {"a": "rules.0.path: found bad"})


async def test_the_client_comes_back_and_says_what_it_has(applied: Applied) -> None:
    async with connected(applied, "a") as (server, client, bound):
        await server.next_request()
        await server.send.put(response("n1", {"a": ("v1", b"A")}))
        await server.next_request()
        await server.hang_up()
        assert dict((await server.next_request()).initial_resource_versions) == {"a": "v1"}
        await server.stop()
        successor = AdsServer()
        await successor.start(bound)
        try:
            assert dict((await successor.next_request()).initial_resource_versions) == {"a": "v1"}
            await successor.send.put(response("m1", {"a": ("v2", b"B")}))
            await successor.next_request()
            assert applied == {"a": b"B"}
            assert client.is_connected
        finally:
            await successor.stop()


async def test_the_last_known_good_is_in_effect_before_any_connection(applied: Applied, tmp_path: Path) -> None:
    state = tmp_path / "state" / "policy"
    async with connected(applied, "a", state=state) as (server, _, bound):
        await server.next_request()
        await server.send.put(response("n1", {"a": ("v1", b"A")}))
        await server.next_request()
        await server.send.put(response("n2", {"a": ("v2", b"bad")}))
        await server.next_request()
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    restored = Applied()
    client = AdsClient(bound, Subscription(["a"], restored.apply), node_id="n", node_cluster="c", state_file=state)
    client.load()
    assert (restored, client.synced.is_set(), client.problem()) == ({"a": b"A"}, True, None)
    assert client.stale_s() is None


def flip(text: bytes) -> bytes:
    return text[:-10] + bytes([text[-10] ^ 1]) + text[-9:]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(flip, "checksum", id="one bit flipped"),
        pytest.param(lambda text: text[:-1], "checksum", id="the last byte missing"),
        pytest.param(lambda text: b"", "not a file of this format", id="empty"),
        pytest.param(lambda text: b"\xff" + text, "codec|format", id="not text"),
        pytest.param(
            lambda text: text.replace(b"kept 1", b"kept 2"), "not a file of this format", id="another version"
        ),
    ],
)
def test_a_damaged_file_is_refused_and_the_client_starts_without_it(
    tmp_path: Path, applied: Applied, damage: Callable[[bytes], bytes], problem: str
) -> None:
    file = tmp_path / "kept"
    kept.write(file, EXTENSION, {"a": Held(version="v1", body=b"A")})
    assert kept.read(file, EXTENSION) == {"a": Held(version="v1", body=b"A")}
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=problem):
        kept.read(file, EXTENSION)
    client = AdsClient(
        parse_address("127.0.0.1:1"), Subscription(["a"], applied.apply), node_id="n", node_cluster="c", state_file=file
    )
    client.load()
    assert (applied, client.problem()) == ({}, "a: no connection to 127.0.0.1:1 yet")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept"
    kept.write(file, EXTENSION, {"a": Held(version="v1", body=b"A")})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept.write(file, EXTENSION, {"a": Held(version="v2", body=b"B")})
    assert kept.read(file, EXTENSION)["a"].version == "v1"
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_a_file_of_another_type_is_refused(tmp_path: Path) -> None:
    kept.write(tmp_path / "kept", "x/Y", {})
    with pytest.raises(ValueError, match=f"holds x/Y, expected {EXTENSION}"):
        kept.read(tmp_path / "kept", EXTENSION)
