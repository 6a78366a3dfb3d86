"""The fast server's HTTP/2, against an implementation that is not ours, and against clients that do not play fair."""

from __future__ import annotations

import random
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest

from ratelimit.fast.hpack import Decoder, HpackError
from ratelimit.fast.http2 import (
    GREETING,
    MOST_STREAMS,
    PREFACE,
    AcknowledgementFilter,
    Call,
    Connection,
    ConnectionEnded,
    first_path,
)

PATH = "/a.Service/Method"
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "x"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def message(body: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(body)) + body


class Client:
    """A client by the `h2` library, joined to a connection of ours."""

    def __init__(self, **settings: int) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        if settings:
            changed = {getattr(h2.settings.SettingCodes, name): value for name, value in settings.items()}
            self.h2.update_settings(changed)
        self.ours = Connection()
        self.events: list[h2.events.Event] = []

    def ask(self, body: bytes = b"hello", *, headers: list[tuple[str, str]] | None = None, end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers or HEADERS)
        self.h2.send_data(stream, message(body), end_stream=end)
        return stream

    def exchange(self) -> list[Call]:
        """What was sent reaches us, what we say reaches the client."""
        calls = self.ours.receive(self.h2.data_to_send())
        self.hear()
        return calls

    def hear(self) -> None:
        self.events += self.h2.receive_data(self.ours.output())

    def body(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream)

    def trailers(self, stream: int) -> dict[str, str]:
        found = [e for e in self.events if isinstance(e, h2.events.TrailersReceived) and e.stream_id == stream]
        return {name.decode(): value.decode() for e in found for name, value in e.headers}


def test_a_call_is_answered() -> None:
    client = Client()
    stream = client.ask(b"question")

    (call,) = client.exchange()
    assert (call.path, call.message) == (PATH.encode(), b"question")
    client.ours.respond(call.stream, b"answer")
    client.hear()

    assert client.body(stream) == message(b"answer")
    assert client.trailers(stream) == {"grpc-status": "0"}
    assert client.ours.is_idle


def test_calls_may_be_answered_in_any_order() -> None:
    client = Client()
    streams = [client.ask(b"%d" % i) for i in range(3)]
    calls = client.exchange()

    for call in reversed(calls):
        client.ours.respond(call.stream, call.message)
    client.hear()

    assert [client.body(stream) for stream in streams] == [message(b"%d" % i) for i in range(3)]


def test_bytes_may_come_one_by_one() -> None:
    client = Client()
    client.ask(b"x" * 300)

    calls = [call for byte in client.h2.data_to_send() for call in client.ours.receive(bytes([byte]))]

    assert [call.message for call in calls] == [b"x" * 300]


def test_a_failure_has_its_status_and_text() -> None:
    client = Client()
    stream = client.ask()
    (call,) = client.exchange()

    client.ours.fail(call.stream, 2, "50% é")
    client.hear()

    (headers,) = [dict(e.headers) for e in client.events if isinstance(e, h2.events.ResponseReceived)]
    assert (headers[b"grpc-status"], headers[b"grpc-message"]) == (b"2", b"50%25 %C3%A9")
    assert not client.body(stream)


@pytest.mark.parametrize("window", [0, 10, 100_000], ids=["no window", "a small window", "a large window"])
def test_an_answer_waits_for_the_clients_windows(window: int) -> None:
    client = Client(INITIAL_WINDOW_SIZE=window)
    stream = client.ask()
    (call,) = client.exchange()
    answer = bytes(random.Random(1).randbytes(90_000))

    client.ours.respond(call.stream, answer)
    client.hear()
    for _ in range(20):
        client.h2.increment_flow_control_window(10_000)
        if not client.trailers(stream):
            client.h2.increment_flow_control_window(10_000, stream)
        client.exchange()

    assert client.body(stream) == message(answer)
    assert client.trailers(stream) == {"grpc-status": "0"}
    assert client.ours.is_idle


def test_one_answer_held_up_by_its_window_lets_others_by() -> None:
    client = Client(INITIAL_WINDOW_SIZE=20)
    held, free = client.ask(), client.ask()
    for call, size in zip(client.exchange(), (50, 10), strict=True):
        client.ours.respond(call.stream, b"y" * size)
    client.hear()

    assert client.trailers(free)
    assert not client.trailers(held)


def test_a_call_given_up_is_not_answered() -> None:
    client = Client()
    stream = client.ask()
    (call,) = client.exchange()
    client.h2.reset_stream(stream)
    client.exchange()

    client.ours.respond(call.stream, b"late")

    assert client.ours.output() == b""


def test_a_ping_is_answered() -> None:
    client = Client()
    client.h2.ping(b"12345678")
    client.exchange()

    assert [e.ping_data for e in client.events if isinstance(e, h2.events.PingAckReceived)] == [b"12345678"]


def test_trailers_of_a_request_end_it() -> None:
    client = Client()
    stream = client.ask(end=False)
    client.h2.send_headers(stream, [("x-end", "1")], end_stream=True)

    assert [call.message for call in client.exchange()] == [b"hello"]


def test_going_away_refuses_new_calls_and_answers_old_ones() -> None:
    client = Client()
    old = client.ask()
    (call,) = client.exchange()
    client.ours.go_away()
    sent = client.ours.output()
    client.ask()
    client.ours.receive(client.h2.data_to_send())
    client.ours.respond(call.stream, b"done")
    client.events += client.h2.receive_data(sent)

    assert any(isinstance(e, h2.events.ConnectionTerminated) and e.error_code == 0 for e in client.events)
    assert client.ours.is_idle
    assert old == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\1\0\0\0\1x", id="a compressed message"),
        pytest.param(b"\0\0\0\0\5x", id="a message cut short"),
        pytest.param(b"\0\0\0\0\1x\0\0\0\0\1y", id="two messages"),
        pytest.param(b"\0\0", id="less than a message's head"),
        pytest.param(b"", id="no message"),
    ],
)
def test_anything_but_one_message_fails_the_call_alone(body: bytes) -> None:
    client = Client()
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, HEADERS)
    client.h2.send_data(stream, body, end_stream=True)

    assert client.exchange() == []
    (headers,) = [dict(e.headers) for e in client.events if isinstance(e, h2.events.ResponseReceived)]
    assert headers[b"grpc-status"] in (b"12", b"13")
    assert client.ours.is_idle


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


BLOCK = hpack.Encoder().encode(HEADERS)
DATA, HEADERS_FRAME, RST, SETTINGS, PUSH, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 8, 9


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 1, id="HTTP/1.1"),
        pytest.param(PREFACE + b"\0\x40\1" + frame(DATA, 0, 1)[3:], 6, id="a frame larger than agreed"),
        pytest.param(PREFACE + frame(HEADERS_FRAME, 4, 2, BLOCK), 1, id="an even stream"),
        pytest.param(PREFACE + frame(HEADERS_FRAME, 0, 1, BLOCK) + frame(PING, 0, 0, b"1" * 8), 1, id="a broken block"),
        pytest.param(PREFACE + frame(CONTINUATION, 4, 1, BLOCK), 1, id="a continuation of nothing"),
        pytest.param(PREFACE + frame(HEADERS_FRAME, 4, 1, b"\xff\xff\xff\xff\xff\xff"), 9, id="an endless integer"),
        pytest.param(PREFACE + frame(HEADERS_FRAME, 4, 1, b"\xbf"), 9, id="an index beyond the table"),
        pytest.param(PREFACE + frame(HEADERS_FRAME, 12, 1, b"\xff\0"), 1, id="more padding than frame"),
        pytest.param(PREFACE + frame(DATA, 0, 0, b"x"), 1, id="data of no stream"),
        pytest.param(PREFACE + frame(PING, 0, 0, b"x"), 6, id="a ping of the wrong size"),
        pytest.param(PREFACE + frame(SETTINGS, 0, 0, b"12345"), 6, id="settings of the wrong size"),
        pytest.param(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), 3, id="a window too large"),
        pytest.param(PREFACE + frame(WINDOW, 0, 0, struct.pack(">I", 0)), 1, id="a window that grows by nothing"),
        pytest.param(PREFACE + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), 3, id="a window that overflows"),
        pytest.param(PREFACE + frame(PUSH, 4, 1, b"\0\0\0\2"), 1, id="a push from a client"),
        pytest.param(
            PREFACE + frame(HEADERS_FRAME, 0, 1) + frame(CONTINUATION, 0, 1) * 10_001, 11, id="a flood of continuations"
        ),
        pytest.param(
            PREFACE + frame(HEADERS_FRAME, 0, 1) + frame(CONTINUATION, 0, 1, b"x" * 16_000) * 5,
            11,
            id="endless headers",
        ),
        pytest.param(
            PREFACE
            + b"".join(
                frame(HEADERS_FRAME, 4, 2 * i + 1, BLOCK) + frame(RST, 0, 2 * i + 1, b"\0\0\0\x08")
                for i in range(10_001)
            ),
            11,
            id="calls opened only to be given up",
        ),
    ],
)
def test_a_violation_ends_the_connection(data: bytes, code: int) -> None:
    connection = Connection()

    with pytest.raises(ConnectionEnded):
        connection.receive(data)

    said = connection.output()
    assert said[-17:-8] == frame(7, 0, 0, b"\0" * 8)[:9]
    assert int.from_bytes(said[-4:], "big") == code


def test_more_calls_than_agreed_are_refused() -> None:
    connection = Connection()
    opened = b"".join(frame(HEADERS_FRAME, 4, 2 * i + 1, BLOCK) for i in range(MOST_STREAMS + 1))

    connection.receive(PREFACE + opened)

    assert connection.output().endswith(frame(RST, 0, 2 * MOST_STREAMS + 1, b"\0\0\0\7"))


def test_a_message_beyond_the_limit_fails_the_call_alone() -> None:
    connection = Connection()
    connection.receive(PREFACE + frame(HEADERS_FRAME, 4, 1, BLOCK) + frame(DATA, 0, 1, b"x" * 16_000) * 70)

    assert b"grpc-status\x018" in connection.output()


class TestLooking:
    def test_the_first_path_is_found_when_it_is_there(self) -> None:
        client = Client()
        before = client.h2.data_to_send()
        client.ask()

        assert first_path(before) is None
        assert first_path(before + client.h2.data_to_send()) == PATH.encode()

    def test_what_is_no_http2_has_no_path(self) -> None:
        assert first_path(b"GET / HTTP/1.1\r\n\r\n") == b""

    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_one_acknowledgement_is_left_out(self, size: int) -> None:
        acknowledgement = frame(SETTINGS, 1, 0)
        rest = frame(HEADERS_FRAME, 5, 1, BLOCK) + acknowledgement
        sent = PREFACE + frame(SETTINGS, 0, 0) + acknowledgement + rest
        kept = AcknowledgementFilter()
        out = b""
        for start in range(0, len(sent), size):
            piece = sent[start : start + size]
            out += piece if kept.is_done else kept.feed(piece)

        assert out == PREFACE + frame(SETTINGS, 0, 0) + rest

    def test_the_greeting_is_an_empty_settings_frame(self) -> None:
        assert frame(SETTINGS, 0, 0) == GREETING


def test_header_blocks_decode_as_another_implementation_encodes_them() -> None:
    dice, encoder, decoder = random.Random(3), hpack.Encoder(), Decoder()
    names = [b":path", b"x-a", b"x-b", b"content-type", b"te", b"x-" + b"y" * 50]
    for _ in range(1500):
        headers = [
            (dice.choice(names), dice.randbytes(dice.choice([0, 3, 30, 400])) if dice.random() < 0.3 else b"same")
            for _ in range(dice.randrange(1, 9))
        ]
        if dice.random() < 0.02:
            encoder.header_table_size = dice.choice([0, 100, 4096])

        assert list(decoder.decode(encoder.encode(headers, huffman=dice.random() < 0.7))) == headers


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index zero"),
        pytest.param(b"\x3f\xe2\x1f", id="a table larger than agreed"),
        pytest.param(b"\x00\x81\xff\x00", id="a Huffman string padded too long"),
        pytest.param(b"\x00\x01x", id="a value is missing"),
        pytest.param(b"\x00\x05x", id="a string cut short"),
        pytest.param(b"\x00\x84\xff\xff\xff\xfc\x00", id="EOS inside a string"),
    ],
)
def test_blocks_that_cannot_be_decoded(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(block)
