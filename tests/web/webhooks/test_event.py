"""What is read of an event, and that nothing of it is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from livekit.protocol.webhook import WebhookEvent

from livekit_pool.web.webhooks.event import KNOWN_KINDS, NotAnEvent, parsed
from tests.web.webhooks.livekits import LEFT, body_of, event


def test_what_the_pool_needs_is_read() -> None:
    left = parsed(body_of(LEFT))
    assert (left.kind, left.id, left.created_at) == ("participant_left", "EV_left", 1_800_000_070)
    assert (left.room, left.room_sid, left.participant_sid) == ("standup", "RM_one", "PA_one")
    assert left.joined_ms == 1_800_000_010_250
    assert left.participant_kind == "STANDARD"
    assert left.kind in KNOWN_KINDS
    assert "alice" not in repr(left)
    assert "standup" not in repr(left)


@pytest.mark.parametrize(
    ("participant", "joined_ms"),
    [
        ({"joinedAtMs": "1800000010250"}, 1_800_000_010_250),
        ({"joinedAtMs": 1800000010250}, 1_800_000_010_250),
        ({"joinedAtMs": "0", "joinedAt": "1800000010"}, 1_800_000_010_000),  # an older server
        ({"joinedAt": 1800000010}, 1_800_000_010_000),
        ({"joinedAtMs": "9223372036854775807"}, 9_223_372_036_854_775_807),
        ({"joinedAtMs": "9223372036854775808"}, 0),
        ({"joinedAtMs": "-1"}, 0),
        ({"joinedAtMs": "7" * 5000}, 0),
        ({"joinedAtMs": "1e3"}, 0),
        ({"joinedAtMs": "٧"}, 0),
        ({"joinedAtMs": True}, 0),
        ({"joinedAtMs": 1.5}, 0),
        ({"joinedAtMs": None}, 0),
        ({"joinedAtMs": ["1"]}, 0),
        ({}, 0),
        ("alice", 0),
        (None, 0),
    ],
)
def test_64_bit_numbers_are_texts(participant: Any, joined_ms: int) -> None:
    joined = parsed(body_of(event("participant_joined", participant=participant)))
    assert joined.joined_ms == joined_ms


@pytest.mark.parametrize("wrong", [7, None, [], "x", True])
def test_a_part_of_another_type_is_as_if_it_was_not_there(wrong: Any) -> None:
    found = parsed(
        body_of({"event": "room_started", "id": wrong, "createdAt": wrong, "room": wrong})
    )
    assert (found.room, found.created_at) == ("", 7 if wrong == 7 else 0)
    assert found.id == ("x" if wrong == "x" else "")


@pytest.mark.parametrize(
    ("data", "sequence"),
    [
        (event(), "room standup"),
        ({"event": "egress_ended", "egressInfo": {"egressId": "EG_1"}}, "egressInfo EG_1"),
        (
            {"event": "egress_ended", "egressInfo": {"egressId": "EG_1", "roomName": "standup"}},
            "room standup",
        ),
        ({"event": "ingress_ended", "ingressInfo": {"ingressId": "IN_1"}}, "ingressInfo IN_1"),
        ({"event": "other"}, ""),
    ],
)
def test_what_it_stays_in_order_with(data: dict[str, Any], sequence: str) -> None:
    assert parsed(body_of(data)).sequence == sequence


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"event": ' + b"7" * 5000 + b"}", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"room_started"', "must be a JSON object"),
        (b"{}", "event is missing"),
        (b'{"event": ""}', "event is missing"),
        (b'{"event": 7}', "event is missing"),
    ],
)
def test_what_is_no_event_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(NotAnEvent, match=says) as caught:
        parsed(body)
    assert str(caught.value).endswith(".")
    assert "777" not in str(caught.value)


def test_nothing_is_lost_when_it_is_passed_on() -> None:
    data = {
        **LEFT,
        "event": "of_tomorrow",
        "new": {"deep": [1, 2.5, "9223372036854775807", None, True, {"a": "ü\u2028\U0001f600"}]},
        "big": 12345678901234567890123,
    }
    body = parsed(body_of(data)).passed_on(server="red", revision=7)
    assert json.loads(body) == {**data, "server": "red", "revision": 7}
    assert body.decode().startswith('{"event":"of_tomorrow"')


def test_half_of_a_surrogate_pair_is_passed_on() -> None:
    body = parsed(b'{"event": "x", "id": "\\ud800"}').passed_on(server=None, revision=0)
    assert body == b'{"event":"x","id":"\\ud800","server":null,"revision":0}'


def test_it_is_livekits_event_still() -> None:
    body = parsed(body_of(LEFT)).passed_on(server="red", revision=7)
    read = json_format.Parse(body, WebhookEvent(), ignore_unknown_fields=True)
    assert read == json_format.ParseDict(LEFT, WebhookEvent())
