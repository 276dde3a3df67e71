"""Frames: boundaries and messages are found however the bytes are cut."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from livekit_pool.web.gateway import signal
from livekit_pool.web.gateway.frames import (
    BINARY,
    CLOSE,
    EVERY_KIND,
    HELD_LIMIT,
    FrameError,
    FrameStream,
    Message,
    accept_key,
    close_frame,
    encode,
)

MASK = b"\x01\x92\xa3\x7f"


def payload_of(kind: int, size: int) -> bytes:
    """A oneof message of field ``kind`` with ``size`` bytes of content."""
    tag = kind << 3 | 2
    head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return head + length + bytes(i & 255 for i in range(size))


def fed(stream: FrameStream, data: bytes, cuts: list[int]) -> list[bytes | Message]:
    """What ``stream`` makes of ``data``, cut at ``cuts``; neighbouring bytes joined."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    pieces: list[bytes | Message] = []
    for begin, end in itertools.pairwise(edges):
        if begin == end:
            continue
        part = data[begin:end]
        answer = part if stream.passes(part) else stream.feed(part)
        pieces += [answer] if isinstance(answer, bytes) else answer
    joined: list[bytes | Message] = []
    for piece in pieces:
        if isinstance(piece, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += piece
        elif piece:
            joined.append(piece)
    return joined


messages = st.lists(
    st.tuples(
        st.sampled_from([signal.JOIN, signal.LEAVE, signal.REFRESH_TOKEN, 4, 10, 21, 31]),
        st.sampled_from([0, 1, 2, 120, 123, 124, 200, 16_000]),
    ),
    min_size=1,
    max_size=8,
)


@given(messages=messages, cuts=st.lists(st.integers(0, 40_000), max_size=12), masked=st.booleans())
def test_wanted_messages_are_taken_out_and_all_else_passes_unchanged(
    messages: list[tuple[int, int]], cuts: list[int], masked: bool
) -> None:
    wanted = frozenset({signal.LEAVE, signal.REFRESH_TOKEN})
    stream = FrameStream(masked=masked, wanted=wanted)
    expected: list[bytes | Message] = []
    data = b""
    for kind, size in messages:
        payload = payload_of(kind, size)
        frame = encode(payload, BINARY, MASK if masked else None)
        data += frame
        if kind in wanted:
            expected.append(Message(BINARY, kind, payload, frame))
        elif expected and isinstance(expected[-1], bytes):
            expected[-1] += frame
        else:
            expected.append(frame)

    assert fed(stream, data, cuts) == expected
    assert stream.at_boundary


@given(cut=st.integers(1, 400), masked=st.booleans())
def test_a_boundary_is_known_exactly(cut: int, masked: bool) -> None:
    frame = encode(payload_of(10, 150), BINARY, MASK if masked else None)
    other = encode(payload_of(4, 90), BINARY, MASK if masked else None)
    data = frame + other
    cut %= len(data)
    stream = FrameStream(masked=masked)

    passed = fed(stream, data[:cut], [])
    sent = sum(len(piece) for piece in passed if isinstance(piece, bytes))

    assert stream.at_boundary is (sent in (0, len(frame), len(data)))


@given(
    parts=st.lists(st.integers(0, 60), min_size=2, max_size=5),
    cuts=st.lists(st.integers(0, 500), max_size=8),
    wanted=st.booleans(),
)
def test_a_message_of_several_frames_is_one_message(
    parts: list[int], cuts: list[int], wanted: bool
) -> None:
    payload = payload_of(signal.LEAVE, sum(parts))
    sizes = [len(payload) - sum(parts[1:]), *parts[1:]]
    data, at = b"", 0
    for index, size in enumerate(sizes):
        opcode = BINARY if index == 0 else 0
        frame = encode(payload[at : at + size], opcode)
        at += size
        if index < len(sizes) - 1:
            frame = bytes([frame[0] & 0x7F]) + frame[1:]
            frame += encode(b"hi", 9) if not wanted else b""
        data += frame
    stream = FrameStream(masked=False, wanted=frozenset({signal.LEAVE} if wanted else ()))

    answer = fed(stream, data, cuts)

    assert answer == ([Message(BINARY, signal.LEAVE, payload, data)] if wanted else [data])
    assert stream.at_boundary


def test_between_the_frames_of_one_message_there_is_no_boundary() -> None:
    stream = FrameStream(masked=False)
    first = encode(payload_of(10, 20))

    stream.feed(bytes([first[0] & 0x7F]) + first[1:])

    assert not stream.at_boundary


def test_where_nothing_is_wanted_the_very_bytes_come_back() -> None:
    stream = FrameStream(masked=False, wanted=frozenset({signal.LEAVE}))
    data = encode(payload_of(10, 200)) * 3

    assert stream.feed(data) is data


def test_a_close_frame_is_handed_over_in_both_directions() -> None:
    for mask in (None, MASK):
        stream = FrameStream(masked=mask is not None)
        raw = close_frame(1000, mask)

        assert stream.feed(raw) == [Message(CLOSE, 0, b"\x03\xe8", raw)]


@pytest.mark.parametrize(
    ("data", "masked", "code"),
    [
        (encode(b"\x0a\x00"), True, 1002),  # a client must mask
        (encode(b"\x0a\x00", mask=MASK), False, 1002),  # a server must not
        (encode(b"{}", 1, MASK), True, 1003),  # text would switch the server to JSON
        (b"\xc2\x80" + MASK, True, 1002),  # compressed, though nothing was offered
        (encode(b"", 3, MASK), True, 1002),  # reserved opcode
        (encode(b"x", 0, MASK), True, 1002),  # continues nothing
        (encode(b"x" * 126, 9, MASK), True, 1002),  # a ping that is too long
        (encode(b"x" * 126, 8, MASK), True, 1002),  # so is this close
        (encode(b"\x0a", mask=MASK).replace(b"\x82", b"\x02") * 2, True, 1002),  # one in another
        (b"\x82\xff" + b"\xff" * 8 + MASK, True, 1002),  # a length of -1
    ],
)
def test_broken_frames_are_refused_with_their_close_code(
    data: bytes, masked: bool, code: int
) -> None:
    stream = FrameStream(masked=masked)

    with pytest.raises(FrameError) as caught:
        stream.feed(data)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("masked", "limit", "size"), [(True, 2**16, 0), (True, 2**16, 1000), (False, HELD_LIMIT, 1000)]
)
def test_a_wanted_message_in_parts_without_end_is_not_held_for_ever(
    masked: bool, limit: int, size: int
) -> None:
    mask = MASK if masked else None
    stream = FrameStream(masked=masked, wanted=frozenset({signal.LEAVE}))
    first = encode(payload_of(signal.LEAVE, 20), BINARY, mask)
    part = encode(bytes(size), 0, mask)
    some = (bytes([part[0] & 0x7F]) + part[1:]) * (limit // 8 // len(part))
    assert stream.feed(bytes([first[0] & 0x7F]) + first[1:]) == []

    for _ in range(7):
        assert stream.feed(some) == []
    with pytest.raises(FrameError) as caught:
        stream.feed(some * 2)

    assert caught.value.code == 1009


@pytest.mark.parametrize("masked", [False, True])
def test_a_wrong_mask_is_refused_whatever_length_it_pretends(masked: bool) -> None:
    """The mask's bit beside the length must not be taken for a part of it."""
    for size in range(300):
        frame = bytes([0x82, (0 if masked else 128) | 20]) + bytes(size)
        if len(frame) < 2:
            continue
        with pytest.raises(FrameError):
            FrameStream(masked=masked).feed(frame)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [0x82, 0x02, 0x80, 0x81, 0x88, 0x89, 0xC2])
def test_what_passes_at_once_is_what_would_pass_whole(first: int, masked: bool) -> None:
    """Whatever the first bytes say of a length, and whatever comes with them."""
    wanted = frozenset({signal.LEAVE})
    stream = FrameStream(masked=masked, wanted=wanted)
    passed = 0
    for second in range(256):
        for size in (*range(1, 150), 300):
            for rest in (b"\x00\x80\x00\x00\x00\x00\x1a", b"\x00\x8c\x1a", b"\x42", b"\x92\x01"):
                data = (bytes([first, second]) + rest + bytes(size))[:size]
                if not stream.passes(data):
                    continue
                passed += 1
                slowly = FrameStream(masked=masked, wanted=wanted)
                assert slowly.feed(data) is data
                assert slowly.at_boundary
    assert bool(passed) is (first == 0x82)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [6, 20, 123, 124, 200, 16_000])
def test_the_messages_of_a_session_pass_at_once_and_the_wanted_ones_do_not(
    size: int, masked: bool
) -> None:
    stream = FrameStream(masked=masked, wanted=frozenset({signal.LEAVE}))
    mask = MASK if masked else None

    assert stream.passes(encode(payload_of(4, size), BINARY, mask))
    assert not stream.passes(encode(payload_of(signal.LEAVE, size), BINARY, mask))
    stream.wanted = frozenset()
    assert stream.passes(encode(payload_of(signal.LEAVE, size), BINARY, mask))


def test_nothing_passes_at_once_within_a_frame_or_a_message() -> None:
    stream = FrameStream(masked=False)
    frame = encode(payload_of(10, 20))

    stream.feed(frame[:1])  # held
    assert not stream.passes(frame)
    stream.feed(frame[1:5])  # within the frame
    assert not stream.passes(frame)
    stream.feed(frame[5:])
    assert stream.passes(frame)
    stream.feed(bytes([frame[0] & 0x7F]) + frame[1:])  # the first frame of several
    assert not stream.passes(frame)
    stream.feed(encode(b"end", 0)[:3])
    stream.feed(encode(b"end", 0)[3:])
    assert stream.passes(frame)


def test_sixty_four_bits_of_length_are_no_small_length() -> None:
    payload = b"\x52" + bytes(70_000)
    frame = encode(payload)
    first = frame[: 2 + 127]  # as long as a frame whose length were 127
    stream = FrameStream(masked=False)

    assert stream.feed(first) is first
    assert not stream.at_boundary


def test_random_bytes_never_do_more_than_raise_frame_error() -> None:
    source = random.Random(7)
    for _ in range(3000):
        stream = FrameStream(masked=source.random() < 0.5, wanted=EVERY_KIND)
        try:
            for _ in range(4):
                stream.feed(source.randbytes(source.randint(1, 60)))
        except FrameError:
            continue


def test_accept_key_is_that_of_the_rfc() -> None:
    # RFC 6455, section 1.3
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_leave_sets_both_ways_of_saying_it_and_never_reason_one() -> None:
    response = rtc.SignalResponse.FromString(
        signal.leave(rtc.LeaveRequest.RECONNECT, models.DisconnectReason.SERVER_SHUTDOWN)
    )

    assert response.leave.can_reconnect
    assert response.leave.action == rtc.LeaveRequest.RECONNECT
    assert rtc.SignalRequest.FromString(signal.GOODBYE).leave.reason == 11


def test_a_leave_of_a_clients_that_is_far_too_long_is_not_held() -> None:
    stream = FrameStream(masked=True, wanted=frozenset({8}))
    begin = b"\x82\xff" + (2**20).to_bytes(8, "big") + bytes(4) + b"\x42\x00" + bytes(1000)

    assert stream.feed(begin) == begin
