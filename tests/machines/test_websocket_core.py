"""The WebSocket core against a raw peer of our own, which reads every byte, and against wsproto's server."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator

import pytest
import wsproto
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Pong, Request, TextMessage

from devpipe.machines.errors import FailureKind
from devpipe.machines.protocols.websocket import (
    MAX_FRAGMENTS,
    MAX_HEAD,
    MAX_PINGS,
    Handshake,
    Phase,
    WebSocketClient,
)
from devpipe.machines.protocols.websocket_fast import mask_frame, take_text_frames

KEY = b"\x01\x80\xfe\x7f"
LIMIT = 1000


@pytest.fixture(params=[True, False], ids=["fast", "wsproto"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Everything holds with and without the fast way."""
    return bool(request.param)


# --- a raw peer -------------------------------------------------------------------------------------------


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, size: int | None = None, rsv: int = 0
) -> bytes:
    """A server's frame. ``size``: what its header claims."""
    size = len(payload) if size is None else size
    first = bytes([(0x80 if fin else 0) | rsv | opcode])
    if size < 126:
        return first + bytes([size]) + payload
    if size < 65536:
        return first + b"\x7e" + struct.pack("!H", size) + payload
    return first + b"\x7f" + struct.pack("!Q", size) + payload


def read_frames(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Opcode, fin and payload of each of a client's frames; each must be masked and whole."""
    while data:
        first, second = data[0], data[1]
        assert second & 0x80, "a client masks"
        assert not first & 0x70, "no reserved bits"
        size, at = second & 0x7F, 2
        if size == 126:
            (size,) = struct.unpack_from("!H", data, 2)
            at = 4
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, 2)
            at = 10
        key, masked, data = data[at : at + 4], data[at + 4 : at + 4 + size], data[at + 4 + size :]
        assert len(masked) == size
        yield first & 0x0F, bool(first & 0x80), bytes(b ^ key[i % 4] for i, b in enumerate(masked))


def sent(core: WebSocketClient) -> list[tuple[int, bool, bytes]]:
    return list(read_frames(core.data_to_send()))


def close_code_sent(core: WebSocketClient) -> int:
    """The code of the one close frame that goes out now."""
    ((opcode, fin, payload),) = sent(core)
    assert opcode == 8
    assert fin
    return int.from_bytes(payload[:2], "big")


def answer(request: bytes, *headers: str, accept: str | None = None) -> bytes:
    lines = request.decode().split("\r\n")
    (key,) = (line.split(": ")[1] for line in lines if line.lower().startswith("sec-websocket-key"))
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    told = base64.b64encode(digest).decode() if accept is None else accept
    head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*head, f"Sec-WebSocket-Accept: {told}", *headers, "", ""]).encode("utf-8")


def make(fast: bool = True, *, limit: int = LIMIT, fragment: int = 64 * 1024) -> WebSocketClient:
    handshake = Handshake(host="pipe.example:8000", target="/devpipe/ws")
    return WebSocketClient(handshake, limit=limit, fragment=fragment, fast=fast)


def opened(fast: bool = True, *, limit: int = LIMIT, fragment: int = 64 * 1024) -> WebSocketClient:
    core = make(fast, limit=limit, fragment=fragment)
    core.receive_data(answer(core.data_to_send()), now=0.0)
    assert core.phase is Phase.OPEN
    return core


# --- the handshake ----------------------------------------------------------------------------------------


def test_the_request_asks_for_what_was_given_and_offers_no_extension_and_no_subprotocol() -> None:
    secret = ("Authorization", "Bearer s3cret")
    handshake = Handshake(host="pipe.example:8000", target="/devpipe/ws", headers=(secret,))
    assert "s3cret" not in repr(handshake)
    core = WebSocketClient(handshake, limit=LIMIT)
    assert core.has_data_to_send
    head = core.data_to_send().decode().lower()
    assert head.startswith("get /devpipe/ws http/1.1\r\n")
    assert "host: pipe.example:8000\r\n" in head
    assert "authorization: bearer s3cret\r\n" in head
    assert "sec-websocket-version: 13\r\n" in head
    assert "extensions" not in head
    assert "protocol:" not in head
    assert not core.has_data_to_send


def test_the_answer_may_come_split_anywhere_with_messages_right_behind_it(fast: bool) -> None:
    for cut in range(1, 200):
        core = make(fast)
        data = answer(core.data_to_send()) + frame(1, b"one") + frame(1, b"two")
        core.receive_data(data[:cut], now=0.0)
        core.receive_data(data[cut:], now=0.0)
        assert core.phase is Phase.OPEN
        assert core.messages() == [b"one", b"two"]


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Bad accept token"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "Bad HTTP message"),
        (b"HTTP/1.1 101 x\r\nUpgrade: web\xe9\r\nConnection: Upgr\xe9de\r\n\r\n", "no WebSocket's"),
        (b"\r\n\r\n", "no WebSocket's"),
    ],
)
def test_an_answer_that_is_no_websockets_is_a_protocol_failure(answered: bytes, words: str) -> None:
    core = make()
    core.data_to_send()
    core.receive_data(answered, now=0.0)
    assert core.phase is Phase.CLOSED
    assert core.closed is not None
    assert core.closed.kind is FailureKind.PROTOCOL
    assert words in core.closed.reason


@pytest.mark.parametrize(
    "header", ["Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat"]
)
def test_an_extension_or_subprotocol_that_nobody_asked_for_is_refused(header: str) -> None:
    core = make()
    core.receive_data(answer(core.data_to_send(), header), now=0.0)
    assert core.closed is not None
    assert "unrecognized" in core.closed.reason


def test_a_wrong_accept_token_is_refused() -> None:
    core = make()
    core.receive_data(answer(core.data_to_send(), accept="AAAA"), now=0.0)
    assert core.closed is not None
    assert "accept token" in core.closed.reason


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words", "retry_after"),
    [
        (401, "", FailureKind.AUTH, "the server wants a token: give token= or DEVPIPE_TOKEN", None),
        (403, "", FailureKind.AUTH, "HTTP 403", None),
        (407, "", FailureKind.AUTH, "HTTP 407", None),
        (404, "", FailureKind.PROTOCOL, "HTTP 404", None),
        (302, "Location: http://evil.example/\r\n", FailureKind.PROTOCOL, "never followed", None),
        (200, "Content-Type: text/HTML\r\n", FailureKind.PROTOCOL, "HTML page", None),
        (429, "Retry-After: 7\r\n", FailureKind.UNAVAILABLE, "HTTP 429", 7.0),
        (503, "Retry-After: 30\r\n", FailureKind.UNAVAILABLE, "HTTP 503", 30.0),
        (503, "DevPipe-Error: do this\r\n", FailureKind.UNAVAILABLE, "HTTP 503: 'do this'", None),
        (
            421,
            "DevPipe-Error: \x1b[31m\xe9" + "x" * 300 + "\r\n",
            FailureKind.PROTOCOL,
            "HTTP 421: '\\x1b[31m\xc3\xa9",
            None,
        ),
        (503, "Retry-After: 9999999\r\n", FailureKind.UNAVAILABLE, "HTTP 503", None),
        (503, "Retry-After: Tue, 24 Nov 2026 12:00:00 GMT\r\n", FailureKind.UNAVAILABLE, "HTTP 503", None),
        (103, "", FailureKind.PROTOCOL, "HTTP 103", None),
    ],
)
def test_a_refusal_says_what_it_was_and_does_not_wait_for_its_body(
    status: int, headers: str, kind: FailureKind, words: str, retry_after: float | None
) -> None:
    core = make()
    core.data_to_send()
    core.receive_data(f"HTTP/1.1 {status} x\r\n{headers}\r\n<html>".encode(), now=0.0)
    assert core.closed is not None
    assert core.closed.kind is kind
    assert words in core.closed.reason
    assert core.closed.retry_after == retry_after
    assert core.data_to_send() == b""


def test_a_head_without_end_is_refused_at_its_limit() -> None:
    core = make()
    core.data_to_send()
    core.receive_data(b"HTTP/1.1 200 OK\r\nX: " + b"a" * (MAX_HEAD - 30), now=0.0)
    assert core.phase is Phase.HANDSHAKE
    core.receive_data(b"a" * 30, now=0.0)
    assert core.closed is not None
    assert str(MAX_HEAD) in core.closed.reason


def test_the_end_of_the_stream_has_its_own_words_in_each_phase() -> None:
    core = make()
    core.receive_eof()
    assert core.closed is not None
    assert core.closed.kind is FailureKind.NETWORK
    assert "handshake" in core.closed.reason

    core = opened()
    core.receive_data(frame(1, b"cut off")[:5], now=0.0)
    core.receive_eof()
    assert core.closed is not None
    assert core.closed.kind is FailureKind.NETWORK
    assert core.close_code == 1006
    first = core.closed
    core.receive_eof()
    assert core.closed is first


# --- messages out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 511, 512, 513, 65535, 65536, 70001])
def test_one_frame_carries_a_message_of_every_shape_of_length(fast: bool, size: int) -> None:
    payload = (b'{"a": "\xc3\xa9"}' * (size // 11 + 1))[:size].decode(errors="ignore").encode()
    core = opened(fast)
    assert list(read_frames(core.frame(payload, KEY))) == [(1, True, payload)]


def test_the_fast_way_masks_with_the_key_that_it_was_given() -> None:
    assert (
        mask_frame(0x81, b"Hello", b"\x37\xfa\x21\x3d").hex(" ") == "81 85 37 fa 21 3d 7f 9f 4d 51 58"
    )  # RFC 6455


def test_a_large_message_goes_in_pieces_and_a_pong_may_pass_between(fast: bool) -> None:
    payload = "é".encode() * 700 + b"x" * 701
    core = opened(fast, fragment=333)
    pieces = core.pieces(payload)
    assert b"".join(pieces) == payload
    assert all(0 < len(piece) <= 333 for piece in pieces)
    for piece in pieces:
        piece.decode()  # no character is cut
    out = core.frame(pieces[0], KEY, last=False)
    core.receive_data(frame(9, b"there?"), now=0.0)
    out += core.data_to_send()
    for piece in pieces[1:-1]:
        out += core.frame(piece, KEY, first=False, last=False)
    out += core.frame(pieces[-1], KEY, first=False)
    frames = list(read_frames(out))
    assert frames[1] == (10, True, b"there?")
    del frames[1]
    assert [opcode for opcode, _, _ in frames] == [1] + [0] * (len(pieces) - 1)
    assert [fin for _, fin, _ in frames] == [False] * (len(pieces) - 1) + [True]
    assert b"".join(part for _, _, part in frames) == payload


def test_a_message_that_fits_is_one_piece() -> None:
    core = opened(fragment=10)
    assert core.pieces(b"0123456789") == [b"0123456789"]
    assert core.pieces(b"0123456789a") == [b"0123456789", b"a"]
    assert core.pieces(b"") == [b""]


# --- messages in ------------------------------------------------------------------------------------------

SESSION = (
    frame(1, b"small")
    + frame(9, b"p1")
    + frame(1, "größer".encode() * 20)
    + frame(1, b"a", fin=False)
    + frame(10, b"pong")
    + frame(0, "é".encode()[:1], fin=False)
    + frame(0, "é".encode()[1:])
    + frame(1, b"")
    + frame(1, b"last " * 60)
)
EXPECTED = [b"small", "größer".encode() * 20, "aé".encode(), b"", b"last " * 60]


def test_every_split_of_the_bytes_gives_the_same_messages(fast: bool) -> None:
    for cut in range(len(SESSION) + 1):
        core = opened(fast)
        core.receive_data(SESSION[:cut], now=0.0)
        core.receive_data(SESSION[cut:], now=0.0)
        assert core.messages() == EXPECTED
        assert core.messages() == []
        assert sent(core) == [(10, True, b"p1")]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_size_that_looks_like_a_frame_is_a_size(fast: bool, cut: int) -> None:
    core = opened(fast, limit=100_000)
    data = frame(1, b"x" * 0x8105)
    assert data[:4] == b"\x81\x7e\x81\x05"
    core.receive_data(data[:cut], now=0.0)
    core.receive_data(data[cut:], now=0.0)
    assert core.messages() == [b"x" * 0x8105]


def test_the_bytes_may_come_one_by_one(fast: bool) -> None:
    core = opened(fast)
    for i in range(len(SESSION)):
        core.receive_data(SESSION[i : i + 1], now=0.0)
    assert core.messages() == EXPECTED


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(fast: bool) -> None:
    core = opened(fast, limit=70_000)
    core.receive_data(frame(1, b"x" * 70_000), now=0.0)
    assert core.messages() == [b"x" * 70_000]
    core.receive_data(frame(1, b"x" * 70_001), now=0.0)
    assert core.messages() == []
    assert close_code_sent(core) == 1009


PIECES = st.one_of(
    st.text(max_size=200).map(lambda text: frame(1, text.encode())),
    st.binary(max_size=125).map(lambda data: frame(9, data)),
    st.lists(st.text(max_size=40), min_size=2, max_size=4).map(
        lambda parts: b"".join(
            frame(0 if i else 1, part.encode(), fin=i == len(parts) - 1) for i, part in enumerate(parts)
        )
    ),
    st.sampled_from(
        [
            frame(2, b"binary"), frame(1, b"\xff\xfe"), frame(8, struct.pack("!H", 1001) + b"bye"), frame(8),
            frame(3), frame(11), frame(0, b"no beginning"), frame(1, b"rsv", rsv=0x40), frame(9, b"", fin=False),
            frame(1, b"x" * (LIMIT + 1)), frame(1, size=2**62), b"\x81\x7e\x00\x05short", b"\x81\x85maskHello",
            b"\x81\x7f" + struct.pack("!Q", 200) + b"y" * 200, frame(9, b"z" * 126), frame(8, b"\x03"),
        ]
    ),
    st.binary(max_size=30),
)  # fmt: skip


@given(st.lists(PIECES, max_size=8).map(b"".join), st.lists(st.integers(1, 300), max_size=10))
def test_the_fast_way_and_wsproto_alone_agree_on_every_stream_and_split(
    data: bytes, sizes: list[int]
) -> None:
    results: list[object] = []
    for fast in (True, False):
        core = opened(fast)
        at, messages, out = 0, list[bytes](), b""
        for size in [*sizes, len(data)]:
            core.receive_data(data[at : at + size], now=0.0)
            messages += core.messages()
            out += core.data_to_send()
            at += size
        results.append((messages, list(read_frames(out)), core.phase, core.closed, core.close_code))
    assert results[0] == results[1]


@given(st.lists(st.text(max_size=300), max_size=6), st.integers(0, 20), st.integers(0, 400))
def test_taking_frames_never_takes_a_part_of_one(texts: list[str], start: int, limit: int) -> None:
    payloads = [text.encode() for text in texts]
    data = b"#" * start + b"".join(frame(1, payload) for payload in payloads)
    for cut in range(start, len(data) + 1, 7):
        taken, at = take_text_frames(data[:cut], start, limit)
        assert taken == payloads[: len(taken)]
        assert at == start + sum(len(frame(1, payload)) for payload in taken)
        assert all(len(payload) <= limit for payload in taken)


@pytest.mark.parametrize("size", [1, 126, 65536])
def test_a_frame_that_is_not_all_there_is_left_alone(size: int) -> None:
    whole = frame(1, b"x" * size)
    for cut in {min(cut, len(whole) - 1) for cut in (*range(12), len(whole))}:
        assert take_text_frames(b"#" + whole[:cut], 1, 100_000) == ([], 1)
    assert take_text_frames(b"#" + whole, 1, 100_000) == ([b"x" * size], 1 + len(whole))


# --- close codes, on the wire --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (frame(3), 1002, "broke the protocol"),
        (frame(1, b"rsv", rsv=0x40), 1002, "broke the protocol"),
        (b"\x81\x85maskHello", 1002, "broke the protocol"),
        (frame(0, b"no beginning"), 1002, "broke the protocol"),
        (frame(1, b"no end", fin=False) + frame(1, b"another"), 1002, "broke the protocol"),
        (b"\x81\x7e\x00\x05short", 1002, "broke the protocol"),
        (b"\x81\x7f" + struct.pack("!Q", 200) + b"y" * 200, 1002, "broke the protocol"),
        (frame(2, b"binary"), 1003, "binary"),
        (frame(1, b"\xff\xfe"), 1007, "utf-8"),
        (frame(1, "é".encode()[:1], fin=False) + frame(0, b"x"), 1007, "utf-8"),
        (frame(1, size=2**62), 1009, str(2**62)),
        (frame(1, b"x" * 600, fin=False) + frame(0, size=401), 1009, "1001 bytes"),
        (frame(1, b"", fin=False) + frame(0, b"", fin=False) * MAX_FRAGMENTS, 1009, "fragments"),
        (frame(9) * (MAX_PINGS + 1), 1008, "pings"),
    ],
)
def test_a_peer_that_breaks_a_rule_is_told_the_code(fast: bool, data: bytes, code: int, words: str) -> None:
    for size in (len(data), 1):
        core = opened(fast)
        core.receive_data(frame(1, b"before"), now=0.0)
        written: list[tuple[int, bool, bytes]] = []
        for at in range(0, len(data), size):
            core.receive_data(data[at : at + size], now=0.0)
            written += sent(core)
        assert core.messages() == [b"before"]
        opcode, fin, payload = written[-1]
        assert (opcode, fin, int.from_bytes(payload[:2], "big")) == (8, True, code)
        assert [opcode for opcode, _, _ in written].count(8) == 1
        assert core.phase is Phase.CLOSED
        assert core.close_code == code
        assert core.closed is not None
        assert core.closed.kind is FailureKind.PROTOCOL
        assert words in core.closed.reason.lower()
        core.receive_data(frame(1, b"after"), now=0.0)
        core.close()
        assert core.messages() == []
        assert core.data_to_send() == b""


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (1000, FailureKind.NETWORK, "has closed"),
        (1001, FailureKind.NETWORK, "going away"),
        (1002, FailureKind.PROTOCOL, "broken"),
        (1003, FailureKind.PROTOCOL, "takes no such data"),
        (1007, FailureKind.PROTOCOL, "UTF-8"),
        (1008, FailureKind.PROTOCOL, "policy"),
        (1009, FailureKind.PROTOCOL, "too large"),
        (1011, FailureKind.UNAVAILABLE, "failed"),
        (4321, FailureKind.PROTOCOL, "has closed"),
    ],
)
def test_a_close_of_the_peer_is_answered_with_its_code(
    fast: bool, code: int, kind: FailureKind, words: str
) -> None:
    core = opened(fast)
    core.receive_data(frame(8, struct.pack("!H", code) + b"so\x1b[31m long"), now=0.0)
    assert close_code_sent(core) == code
    assert core.close_code == code
    assert core.closed is not None
    assert core.closed.kind is kind
    assert words in core.closed.reason
    assert "so\\x1b[31m long" in core.closed.reason


def test_a_close_without_a_code_is_answered_without_one(fast: bool) -> None:
    core = opened(fast)
    core.receive_data(frame(8), now=0.0)
    assert sent(core) == [(8, True, b"")]
    assert core.close_code == 1005
    assert core.closed is not None
    assert core.closed.kind is FailureKind.NETWORK


def test_our_goodbye_is_said_once_and_only_where_there_is_a_connection() -> None:
    core = opened()
    core.close(1000, "done")
    assert sent(core) == [(8, True, struct.pack("!H", 1000) + b"done")]
    assert core.close_code == 1000
    core.close(1011)
    core.ping()
    core.receive_eof()
    assert core.data_to_send() == b""
    assert core.closed is None

    core = make()
    core.data_to_send()
    core.close()
    assert core.phase is Phase.CLOSED
    assert core.data_to_send() == b""


# --- pings --------------------------------------------------------------------------------------------------


def test_of_many_pings_in_one_read_the_latest_is_answered(fast: bool) -> None:
    core = opened(fast)
    core.receive_data(b"".join(frame(9, b"%d" % n) for n in range(50)), now=5.0)
    assert sent(core) == [(10, True, b"49")]


def test_pings_spread_over_time_are_a_heartbeat_and_no_flood(fast: bool) -> None:
    core = opened(fast)
    for n in range(5 * MAX_PINGS):
        core.receive_data(frame(9), now=n * 0.011)
    assert core.phase is Phase.OPEN
    core.receive_data(frame(9) * (MAX_PINGS + 1), now=100.0)
    assert core.close_code == 1008


def test_a_ping_of_ours_goes_out_and_its_pong_is_no_message(fast: bool) -> None:
    core = opened(fast)
    core.ping(b"here")
    assert sent(core) == [(9, True, b"here")]
    core.receive_data(frame(10, b"here"), now=0.0)
    assert core.messages() == []
    assert core.phase is Phase.OPEN


# --- the real server core as peer ------------------------------------------------------------------------------


def accepted(fast: bool, *, fragment: int) -> tuple[WebSocketClient, wsproto.WSConnection]:
    core = make(fast, fragment=fragment, limit=1_000_000)
    server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    server.receive_data(core.data_to_send())
    (request,) = server.events()
    assert isinstance(request, Request)
    core.receive_data(server.send(AcceptConnection()), now=0.0)
    return core, server


@given(st.text(max_size=2000), st.booleans(), st.integers(126, 700), st.binary(min_size=4, max_size=4))
def test_wsprotos_server_gets_and_gives_the_same_text(
    text: str, fast: bool, fragment: int, key: bytes
) -> None:
    core, server = accepted(fast, fragment=fragment)
    pieces = core.pieces(text.encode())
    for index, piece in enumerate(pieces):
        server.receive_data(core.frame(piece, key, first=index == 0, last=index == len(pieces) - 1))
    got: list[Event] = list(server.events())
    assert all(isinstance(event, TextMessage) for event in got)
    assert "".join(event.data for event in got if isinstance(event, TextMessage)) == text
    core.receive_data(server.send(TextMessage(data=text)), now=0.0)
    assert core.messages() == [text.encode()]


def test_wsprotos_server_hears_our_pongs_and_our_goodbye(fast: bool) -> None:
    core, server = accepted(fast, fragment=1000)
    core.receive_data(server.send(Ping(payload=b"?")), now=0.0)
    server.receive_data(core.data_to_send())
    (event,) = server.events()
    assert isinstance(event, Pong)
    assert bytes(event.payload) == b"?"
    core.close()
    server.receive_data(core.data_to_send())
    (event,) = server.events()
    assert isinstance(event, CloseConnection)
    assert event.code == 1000
