"""A worker around the decision: policies applied and refused, passwords, health, reflection, fuzz, a graceful end."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.core.revocations import Revocation
from extauthz.policy import CONTEXT_POLICY_KEY, InlineKeys, Issuer, RemoteKeys, SharedSecret
from extauthz.server import GRPC_SERVICE, serve
from extauthz.service import DEPARTURE_S, ExtAuthz, Options
from extauthz.settings import Settings
from serving.address import TcpAddress, UnixAddress
from serving.http2 import UNAVAILABLE, CallError
from serving.secret import Secret
from tests.extauthz.worlds import KEY, NOW, document, is_allow, token
from tests.support.waiting import free_port, until


async def no_fetch(source: RemoteKeys) -> bytes:
    raise AssertionError("nothing is fetched here")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ExtAuthz]:
    one = ExtAuthz(fetch=no_fetch, folder=tmp_path, options=Options(log_every_allow=0), wall=lambda: NOW)
    async with one.running():
        one.apply(document().dump())
        yield one


def message(policy: str = "required", **headers: str) -> bytes:
    asked = CheckRequest()
    asked.attributes.request.http.path = "/a"
    asked.attributes.request.http.method = "GET"
    asked.attributes.context_extensions[CONTEXT_POLICY_KEY] = policy
    for name, value in headers.items():
        asked.attributes.request.http.header_map.headers.add(key=name.replace("_", "-"), raw_value=value.encode())
    encoded: bytes = asked.SerializeToString()
    return encoded


async def check(service: ExtAuthz, asked: bytes) -> bytes:
    answer = service.check(asked)
    return answer if isinstance(answer, bytes) else await answer


async def test_credentials_are_decided(service: ExtAuthz) -> None:
    assert is_allow(await check(service, message(authorization=f"Bearer {token()}")))
    assert is_allow(await check(service, message(x_api_key=KEY.text)))
    assert not is_allow(await check(service, message()))
    right, wrong = (b64encode(text).decode() for text in (b"ann:pw", b"ann:no"))
    assert is_allow(await check(service, message(authorization=f"Basic {right}")))
    assert not is_allow(await check(service, message(authorization=f"Basic {wrong}")))


async def test_headers_are_read_from_the_map_too(service: ExtAuthz) -> None:
    """Envoy without raw headers, and every other caller."""
    asked = CheckRequest.FromString(message())
    asked.attributes.request.http.headers["authorization"] = f"Bearer {token()}"
    assert is_allow(await check(service, asked.SerializeToString()))


async def test_passwords_that_pile_up_are_refused_and_the_rest_goes_on(service: ExtAuthz) -> None:
    attempts = [message(authorization=f"Basic {b64encode(b'ann:%d' % n).decode()}") for n in range(60)]
    answers = await asyncio.gather(*(check(service, one) for one in attempts))
    statuses = {CheckResponse.FromString(answer).status.code for answer in answers}
    assert statuses == {16, 14}  # wrong, and too many at once
    assert is_allow(await check(service, message(authorization=f"Bearer {token()}")))


BROKEN: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{", "JSON"),
    "an unknown field": (b'{"polices":{}}', "polices: Extra inputs are not permitted"),
    "a wrong type deep inside": (
        b'{"policies":{"p":{"roles":"admin"}}}',
        "policies.p.roles",
    ),
    "an issuer without an audience": (
        document(issuers={})
        .dump()
        .replace(
            b'"issuers":{}', b'"issuers":{"m":{"issuer":"i","audiences":[],"keys":{"source":"secret","secret":"x"}}}'
        ),
        "issuers.m.audiences",
    ),
    "a weak secret": (
        document(
            issuers={"m": Issuer(issuer="i", audiences=("a",), keys=SharedSecret(secret=Secret("short-and-secret")))}
        ).dump(),
        "issuers.m.keys: a secret for HS256 has at least 32 bytes",
    ),
    "a bad set of keys": (
        document(
            issuers={"m": Issuer(issuer="i", audiences=("a",), keys=InlineKeys(jwks=Secret('{"keys":[]}')))}
        ).dump(),
        "issuers.m.keys",
    ),
    "a proof key that is too short": (
        document().dump().replace(b'"proof":null', b'"proof":{"key":"short-and-secret"}'),
        "proof.key",
    ),
    "a policy with an unknown issuer": (
        document().dump().replace(b'"issuers":[],"mode":"optional"', b'"issuers":["who"],"mode":"optional"'),
        "unknown issuer",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_document_that_is_not_right_names_the_field_and_changes_nothing(service: ExtAuthz, case: str) -> None:
    body, message_of = BROKEN[case]
    with pytest.raises(ValueError) as problem:
        service.apply(body)
    assert message_of in str(problem.value)
    assert "short-and-secret" not in str(problem.value)
    assert is_allow(await check(service, message(authorization=f"Bearer {token()}")))


async def test_a_new_document_forgets_what_the_old_one_verified(service: ExtAuthz) -> None:
    asked = message(authorization=f"Bearer {token()}")
    assert is_allow(await check(service, asked))
    changed = Issuer(issuer="https://main", audiences=("elsewhere",), keys=SharedSecret(secret=Secret("s" * 32)))
    service.apply(document(issuers={"main": changed}).dump())
    assert not is_allow(await check(service, asked))


async def test_without_a_document_nobody_passes(tmp_path: Path) -> None:
    one = ExtAuthz(fetch=no_fetch)
    async with one.running():
        assert one.problem() == "no policy yet"
        with pytest.raises(CallError, match="no policy yet") as refused:
            await check(one, message())
        assert refused.value.status == UNAVAILABLE


async def test_nothing_in_the_numbers_is_secret(service: ExtAuthz) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    await check(service, message(authorization=f"Bearer {token()}"))
    await check(service, message(authorization=f"Bearer {token(exp=NOW - 100, iat=NOW - 200)}"))
    registry = CollectorRegistry()
    registry.register(service.metrics)
    text = generate_latest(registry).decode()
    assert 'causeway_extauthz_decisions_total{policy="required",reason="ok"} 1.0' in text
    assert 'causeway_extauthz_decisions_total{policy="required",reason="token_expired"} 1.0' in text
    assert "causeway_extauthz_check_seconds_count 2.0" in text
    assert "causeway_extauthz_cache_entries 1.0" in text
    assert "acme" not in text


async def test_workers_that_share_a_folder_share_revocations(tmp_path: Path) -> None:
    workers = [ExtAuthz(fetch=no_fetch, folder=tmp_path, wall=lambda: NOW) for _ in range(2)]
    async with workers[0].running(), workers[1].running():
        for one in workers:
            one.apply(document().dump())
        await asyncio.sleep(0)
        await workers[0].revoke(Revocation(kind="subject", value="u1", before=NOW, until=NOW + 99))

        async def is_refused() -> bool:
            return not is_allow(await check(workers[1], message(authorization=f"Bearer {token()}")))

        await until("the other worker refuses", is_refused, within_s=1)
    again = ExtAuthz(fetch=no_fetch, folder=tmp_path, wall=lambda: NOW)
    async with again.running():
        again.apply(document().dump())
        await until("a restarted worker knows", lambda: len(again.revocations) == 1)


# Fuzz -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzzed() -> Any:
    from tests.extauthz.worlds import authorizer

    return authorizer()


TEXT = st.text(max_size=40) | st.sampled_from(
    ["/a", "GET", "authorization", "x-api-key", "127.0.0.1", "required", "optional"]
)
HEADER = st.tuples(
    st.sampled_from(["authorization", "x-api-key", "x-request-id", "cookie", ":path"]) | st.text(max_size=12),
    st.binary(max_size=80) | st.builds(lambda t: b"Bearer " + t, st.binary(max_size=60)) | st.just(b"Basic YTpi"),
)


@settings(max_examples=500, deadline=None)
@given(
    policy=TEXT, method=TEXT, path=TEXT, host=TEXT, ip=TEXT, headers=st.lists(HEADER, max_size=6), plain=st.booleans()
)
def test_no_request_without_a_valid_credential_passes_and_none_raises(
    fuzzed: Any, policy: str, method: str, path: str, host: str, ip: str, headers: list[tuple[str, bytes]], plain: bool
) -> None:
    from extauthz.core.decide import PasswordNeeded
    from extauthz.core.request import read

    asked = CheckRequest()
    http = asked.attributes.request.http
    http.path, http.method, http.host = path, method, host
    asked.attributes.source.address.socket_address.address = ip
    asked.attributes.context_extensions[CONTEXT_POLICY_KEY] = policy
    for name, value in headers:
        if plain:
            http.headers[name] = value.decode("latin-1")
        else:
            http.header_map.headers.add(key=name, raw_value=value)
    request = read(asked.SerializeToString(), "x-api-key")
    decision = fuzzed.decide(request, NOW)
    if isinstance(decision, PasswordNeeded):
        decision = fuzzed.decide(request, NOW, password=False)
    assert is_allow(decision.response) == decision.allowed
    is_anonymous = policy == "optional" and not request.authorization and not request.api_key
    assert decision.allowed <= is_anonymous


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_never_pass(fuzzed: Any, asked: bytes) -> None:
    from google.protobuf.message import DecodeError

    from extauthz.core.request import read

    try:
        request = read(asked, "x-api-key")
    except DecodeError:
        return
    decision = fuzzed.decide(request, NOW)
    assert not is_allow(decision.response)


MUTATION = st.tuples(st.integers(0, 400), st.integers(0, 127))


@settings(max_examples=500, deadline=None)
@given(st.lists(MUTATION, min_size=1, max_size=3))
def test_no_mutation_of_a_valid_token_is_valid(fuzzed: Any, mutations: list[tuple[int, int]]) -> None:
    from extauthz.core.request import Request

    honest = token().encode()
    mutated = bytearray(honest)
    for place, octet in mutations:
        mutated[place % len(mutated)] = octet
    request = Request(
        policy="required",
        method="GET",
        path="/",
        host="h",
        address="1.2.3.4",
        authorization=(b"Bearer " + bytes(mutated),),
    )
    assert fuzzed.decide(request, NOW).allowed == (bytes(mutated) == honest)


# The process's parts --------------------------------------------------------------------------------------------------


async def test_health_reflection_and_checks_on_both_transports(tmp_path: Path) -> None:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    policy = folder / "policy.json"
    policy.write_bytes(document().dump())
    port = free_port()
    listen = (UnixAddress(folder / "s"), TcpAddress("127.0.0.1", port))
    admin = UnixAddress(folder / "admin")
    stop = asyncio.Event()
    running = asyncio.create_task(serve(Settings(listen=listen, policy=policy, admin=admin, xds=None, drain=1.0), stop))
    for target in (f"unix:{folder}/s", f"127.0.0.1:{port}"):
        async with grpc.aio.insecure_channel(target) as channel:
            health = health_pb2_grpc.HealthStub(channel)

            async def is_serving(health: Any = health) -> bool:
                answer = await health.Check(health_pb2.HealthCheckRequest(service=GRPC_SERVICE), wait_for_ready=True)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            await until("SERVING", is_serving)
            call = channel.unary_unary(f"/{GRPC_SERVICE}/Check")
            assert CheckResponse.FromString(await call(message(), timeout=5)).status.code == 16
        apart = [("grpc.use_local_subchannel_pool", 1)]  # else on the connection that the checks went over
        async with grpc.aio.insecure_channel(target, options=apart) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([asked])):
                assert GRPC_SERVICE in {one.name for one in answer.list_services_response.service}
                break
    stop.set()
    await asyncio.wait_for(running, 10)
    assert not (folder / "s").exists()
    shutil.rmtree(folder)


def test_the_document_survives_a_round_trip_and_shows_no_secret() -> None:
    from extauthz.policy import Policy

    policy = document()
    assert Policy.parse(policy.dump()) == policy
    assert policy.dump() == Policy.parse(policy.dump()).dump()
    assert json.loads(policy.dump())
    assert "s" * 32 not in repr(policy)
    assert "pepper" not in repr(policy.api_keys).replace("peppers", "")


async def test_a_policy_that_an_edit_took_away_is_known_for_the_while_in_which_routes_still_name_it(
    tmp_path: Path,
) -> None:
    """Routes are switched after the document: until then Envoy goes on asking by the old name."""
    now = [NOW]
    service = ExtAuthz(fetch=no_fetch, folder=tmp_path, options=Options(log_every_allow=0), wall=lambda: now[0])
    asked = message("old", authorization=f"Bearer {token()}")
    async with service.running():
        old, new = document(), document()
        service.apply(old.model_copy(update={"policies": {"old": old.policies["required"]}}).dump())
        before = CheckResponse.FromString(await check(service, asked))
        service.apply(new.dump())
        during = CheckResponse.FromString(await check(service, asked))
        now[0] += DEPARTURE_S + 1
        service.apply(new.model_copy(update={"gateway": "another"}).dump())
        after = CheckResponse.FromString(await check(service, asked))
    assert before.status.code == during.status.code == 0
    assert before.HasField("ok_response")
    assert during.HasField("ok_response")
    assert after.denied_response.status.code == 503 or after.error_response.status.code == 503
