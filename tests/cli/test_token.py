"""``token``."""

from __future__ import annotations

import json
import time

import pytest

from livekit_pool.tokens import Kind, verify
from tests.cli.conftest import Run
from tests.cli.scripted_pool import PAIR


@pytest.fixture(autouse=True)
def pair(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEKIT_POOL_KEY", PAIR.key)
    monkeypatch.setenv("LIVEKIT_POOL_SECRET", PAIR.secret)


def test_a_participants_token_and_nothing_else_is_printed(command: Run) -> None:
    ran = command("token", "--room", "standup", "--identity", "alice", "--name", "Alice")
    assert (ran.code, ran.err) == (0, "")
    claims = verify(ran.out.strip(), PAIR)
    assert ran.out.count("\n") == 1
    assert (claims.identity, claims.room, claims.raw["name"]) == ("alice", "standup", "Alice")
    assert claims.grants["roomJoin"] is True
    assert claims.pool is None
    assert claims.expires == pytest.approx(time.time() + 6 * 3600, abs=30)


@pytest.mark.parametrize("kind", [Kind.ADMIN, Kind.VIEWER])
def test_a_token_for_the_pools_own_api(command: Run, kind: Kind) -> None:
    claims = verify(command("token", f"--{kind}").out.strip(), PAIR)
    assert claims.pool is kind
    assert claims.grants == {}


@pytest.mark.parametrize(
    ("ttl", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604_800)]
)
def test_ttl(command: Run, ttl: str, seconds: int) -> None:
    claims = verify(command("token", "--viewer", "--ttl", ttl).out.strip(), PAIR)
    assert claims.expires == pytest.approx(time.time() + seconds, abs=30)


def test_json_says_where_to_join(command: Run) -> None:
    ran = command("token", "--room", "standup", "--identity", "alice", "--json")
    answer = json.loads(ran.out)
    assert verify(answer.pop("token"), PAIR).identity == "alice"
    assert answer.pop("expires_at").endswith("Z")
    assert answer == {"url": "ws://127.0.0.1:7870", "room": "standup", "identity": "alice"}
    assert json.loads(command("token", "--admin", "--json").out)["pool"] == "admin"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--room", "standup"),
        ("--identity", "alice"),
        ("--admin", "--viewer"),
        ("--admin", "--room", "standup"),
        ("--admin", "--ttl", "0"),
        ("--admin", "--ttl", "-5"),
        ("--admin", "--ttl", "5 weeks"),
    ],
)
def test_bad_usage(command: Run, arguments: tuple[str, ...]) -> None:
    ran = command("token", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error: " in ran.err
