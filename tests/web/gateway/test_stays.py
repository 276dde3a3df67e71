"""What the gateway's sessions tell of minutes, and joins to a server that is full."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from livekit.protocol import models, rtc

from livekit_pool import tokens
from livekit_pool.metering import metering, seats
from livekit_pool.stores.base import ProcessRow
from livekit_pool.web.gateway import gateway
from livekit_pool.web.gateway.frames import encode
from tests.web.gateway.a_pool import JOIN, PONG, SID, SWITCHED, Line, Setting, a_pool
from tests.web.served import Connection, until

LAST = encode(PONG)
"""The message by which a client sees that those before it have been passed on."""

EGRESS = models.ParticipantInfo(sid="PA_recorder", kind=models.ParticipantInfo.EGRESS)


def stays(setting: Setting) -> dict[tuple[str, str], float]:
    """How long each stay has lasted that the process knows of."""
    spans = setting.pool.metering._evidence.spans()
    return {stay: end - start for stay, (start, end) in spans.items()}


async def ended(setting: Setting, server: str = "red") -> None:
    """Nobody is on ``server`` any more."""
    await until(lambda: setting.pool.metering.participants(server) == 0)


async def test_a_session_is_a_stay_until_its_client_goes() -> None:
    async with a_pool(lambda line: line.joins()) as setting:
        connection = await setting.session()
        await until(lambda: stays(setting))
        assert setting.pool.metering.participants("red") == 1
        assert setting.pool.metering.participants("green") == 0
        await until(lambda: stays(setting)["red", SID] > 0.05)

        connection.close()
        await ended(setting)
        lasted = stays(setting)
        assert lasted.keys() == {("red", SID)}
        await asyncio.sleep(0.05)
        assert stays(setting) == lasted


async def test_a_session_whose_server_breaks_off_ends_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_ORPHAN_VERDICT", 60.0)
    monkeypatch.setattr(gateway, "_ORPHAN_PATIENCE", 60.0)
    async with a_pool(lambda line: line.joins()) as setting:
        connection = await setting.session()
        await until(lambda: stays(setting))
        setting.red.lines[0].writer.transport.abort()
        await ended(setting)
        connection.close()


async def test_a_session_that_moves_ends_on_the_old_server() -> None:
    async with a_pool(lambda line: line.joins()) as setting:
        connection = await setting.session()
        await until(lambda: stays(setting))
        for relay in list(setting.gateway._unsettled):
            relay.active = True
        await setting.pool.rotate("away from red")
        await ended(setting)
        assert stays(setting).keys() == {("red", SID)}
        assert setting.gateway._relays == 1, "it has not gone yet"
        connection.close()


async def test_a_recorder_is_no_stay_but_a_participant() -> None:
    async def joins(line: Line) -> None:
        join = rtc.SignalResponse(join=rtc.JoinResponse(participant=EGRESS))
        line.writer.write(SWITCHED + encode(join.SerializeToString()) + LAST)

    async with a_pool(joins) as setting:
        connection = await setting.asks()
        await connection.until(LAST)
        assert setting.pool.metering.participants("red") == 1
        assert stays(setting) == {}
        connection.close()
        await ended(setting)
        assert stays(setting) == {}


async def test_a_resumed_session_is_the_stay_that_the_server_names() -> None:
    """The answer to a resume does not say who it is; the list of participants after it does."""
    others = [models.ParticipantInfo(sid="PA_bob", identity="bob")]
    own = models.ParticipantInfo(sid=SID, identity="alice")

    async def resumes(line: Line) -> None:
        reconnect = rtc.SignalResponse(reconnect=rtc.ReconnectResponse())
        line.writer.write(SWITCHED + encode(reconnect.SerializeToString()))
        for participants in (others, [*others, own], others):
            update = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=participants))
            line.writer.write(encode(update.SerializeToString()))
        line.writer.write(LAST)

    async with a_pool(resumes) as setting:
        claims = tokens.verify(setting.token(), setting.pool.pair).raw
        token = tokens.news(claims, setting.pool.pair, revision=1, server_name="red")
        await setting.pool.place("standup")
        connection = await asks_to_resume(setting, token)
        await connection.until(LAST)
        assert stays(setting).keys() == {("red", SID)}
        assert setting.pool.metering.participants("red") == 1
        connection.close()
        await ended(setting)


async def asks_to_resume(setting: Setting, token: str) -> Connection:
    connection = await setting.served.connect()
    connection.writer.write(
        b"GET /rtc?protocol=16&reconnect=1 HTTP/1.1\r\nHost: pool\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
    )
    return connection


async def test_a_webhook_tells_of_the_same_stay() -> None:
    async with a_pool(lambda line: line.joins()) as setting:
        connection = await setting.session()
        await until(lambda: stays(setting))
        pool, now = setting.pool, setting.pool.now()
        joined = round((now - 60) * 1000)

        def told(event: str, server: str = "red", sid: str = SID, kind: str = "STANDARD") -> None:
            pool.witness(server, event, sid=sid, joined_ms=joined, created=now, kind=kind)

        told("room_finished", sid="")
        told("participant_joined", server="unknown")
        told("participant_joined", sid="PA_recorder", kind="EGRESS")
        told("something_new", sid="PA_other")
        pool.witness("red", "participant_left", sid="PA_other", joined_ms=joined, created=0.0)
        assert stays(setting).keys() == {("red", SID)}
        assert stays(setting)["red", SID] < 30
        for _ in range(2):
            told("participant_joined")
        assert 59 < stays(setting)["red", SID] < 90
        told("track_published", sid="PA_direct")
        told("participant_left", server="green", sid="PA_direct")
        assert stays(setting).keys() == {("red", SID), ("red", "PA_direct"), ("green", "PA_direct")}
        connection.close()


# -- a server that is full --


async def test_a_join_to_a_full_server_is_told_when_to_try_again() -> None:
    async with a_pool(lambda line: line.joins(), most={"red": 1, "green": 1}) as setting:
        first = await setting.session()
        await until(lambda: setting.pool.metering.is_full("red"))

        refused = await (await setting.asks()).rest()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in refused
        assert refused.endswith(b"the LiveKit server has as many participants as it may, try again")
        assert len(setting.red.lines) == 1, "it was not asked"
        assert setting.pool.active_server == "red", "green would be full, too"

        first.close()
        await ended(setting)
        (await setting.session()).close()


@pytest.mark.parametrize("costs", [False, True], ids=["asks the others", "goes by what it knows"])
async def test_of_joins_that_come_together_no_more_are_let_in_than_may(
    monkeypatch: pytest.MonkeyPatch, costs: bool
) -> None:
    go = asyncio.Event()

    async def waits(line: Line) -> None:
        await go.wait()
        await line.joins()

    if costs:
        monkeypatch.setattr(seats, "HEARTBEAT", 0.0)
    async with a_pool(waits, most={"red": 3, "green": 3}) as setting:
        connections = [await setting.asks() for _ in range(8)]
        await until(lambda: len(setting.red.lines) == 3)
        refused = [asyncio.ensure_future(each.rest()) for each in connections]
        await until(lambda: sum(each.done() for each in refused) == 5)
        go.set()
        await until(lambda: setting.pool.rooms.sessions() == {"red": 3})
        assert setting.pool.metering.participants("red") == 3
        assert not any(setting.pool.metering.seats.coming().values())
        assert len(setting.red.lines) == 3, "the others were not even asked for"
        for each in connections:
            each.close()
        heads = await asyncio.gather(*refused)
        statuses = sorted(head.split()[1] for head in heads)
        assert statuses == [b"101"] * 3 + [b"503"] * 5


async def test_a_seat_is_free_again_when_nobody_took_it() -> None:
    async def never(line: Line) -> None:
        await asyncio.Event().wait()

    async with a_pool(never, most={"red": 1, "green": 1}) as setting:
        connection = await setting.asks()
        await until(lambda: setting.pool.metering.seats.taken["red"] == 1)
        assert setting.pool.driver.row().coming == {"red": 1}, "the others count it"
        connection.close()
        await until(lambda: setting.pool.metering.seats.taken["red"] == 0)
        assert not any(setting.pool.driver.row().coming.values())


async def test_a_seat_that_is_given_to_who_has_just_gone_is_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_pool(lambda line: line.joins(), most={"red": 1, "green": 1}) as setting:
        mine = setting.pool.metering.seats
        coming = asyncio.ensure_future(mine.take("red"))
        give = mine._give

        def give_and_go(*seat: Any) -> None:
            give(*seat)
            assert mine.taken["red"] == 1
            coming.cancel()  # it has not heard of it yet

        monkeypatch.setattr(mine, "_give", give_and_go)
        with pytest.raises(asyncio.CancelledError):
            await coming
        assert mine.taken["red"] == 0


async def test_of_several_processes_only_so_many_take_the_last_seats() -> None:
    async with a_pool(lambda line: line.joins(), most={"red": 4}) as setting:
        await others_have(setting, red=2)
        driver, mine = setting.pool.driver, setting.pool.metering.seats
        taken = await asyncio.gather(*(mine.take("red") for _ in range(5)))
        assert sum(taken) == 2
        (told,) = [row for row in await driver.store.rows() if row.process == driver.process]
        assert told.coming == {"red": 2}
        mine.leave("red")
        await others_have(setting, red=3)
        assert not await mine.take("red"), "what the others said since is heard"


async def test_everybody_moves_to_a_server_that_has_room_and_the_join_goes_there() -> None:
    async with a_pool(lambda line: line.joins(), most={"red": 1}) as setting:
        first = await setting.session()
        await until(lambda: setting.pool.active_server == "green")
        (rotation,) = await setting.pool.history()
        assert (rotation.cause.value, rotation.reason) == (
            "participant_limit",
            "1 participants, of 1",
        )
        first.close()


@pytest.fixture
def rows_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows say is believed at once: nobody who was counted in one has come here since."""
    monkeypatch.setattr(metering, "LASTS", 0)
    monkeypatch.setattr(metering, "READ_ROWS", 0.0)


@pytest.mark.usefixtures("rows_are_right")
async def test_a_server_that_others_filled_is_left_without_a_join() -> None:
    async with a_pool(lambda line: line.joins(), most={"red": 1}) as setting:
        await others_have(setting, red=1)
        await until(lambda: setting.pool.active_server == "green")


async def others_have(setting: Setting, **sessions: int) -> None:
    """Another process says how many participants it has."""
    row = ProcessRow(
        process="other",
        host="x",
        started=0.0,
        names=("red", "green"),
        fingerprint="",
        sessions=sessions,
    )
    await setting.pool.driver.store.beat(row)


@pytest.mark.usefixtures("rows_are_right")
async def test_a_join_tells_of_a_server_that_others_filled() -> None:
    async with a_pool(lambda line: line.joins(), most={"red": 1}) as setting:
        await others_have(setting, red=1)
        await until(lambda: setting.pool.is_full("red"))
        connection = await setting.asks()
        await connection.until(JOIN)
        assert [len(each.lines) for each in (setting.red, setting.green)] == [0, 1]
        connection.close()


async def test_who_resumes_is_there_already() -> None:
    async def answers(line: Line) -> None:
        if not setting.red.lines[1:]:
            await line.joins()
            return
        reconnect = rtc.SignalResponse(reconnect=rtc.ReconnectResponse())
        line.writer.write(SWITCHED + encode(reconnect.SerializeToString()))

    async with a_pool(answers, most={"red": 1, "green": 1}) as setting:
        first = await setting.session()
        await until(lambda: setting.pool.metering.is_full("red"))
        claims = tokens.verify(setting.token(), setting.pool.pair).raw
        token = tokens.news(claims, setting.pool.pair, revision=1, server_name="red")
        connection = await asks_to_resume(setting, token)
        assert b" 101 " in (await connection.until(b"\r\n\r\n")).splitlines()[0]
        connection.close()
        first.close()


# -- what is shown of it --


async def test_status_has_the_minutes_of_each_server_that_is_ours() -> None:
    async with a_pool(lambda line: line.joins()) as setting:
        row = ProcessRow(
            process="other", host="x", started=0.0, names=("red", "theirs"), fingerprint=""
        )
        await setting.pool.driver.store.beat(row)
        connection = await setting.session()
        await until(lambda: stays(setting))
        status = await setting.pool.status()
        connection.close()

    shown = {server["name"]: server for server in status["servers"]}  # type: ignore[attr-defined]
    assert (shown["red"]["burn_rate"], shown["green"]["burn_rate"]) == (1.0, 0.0)
    assert shown["green"]["minutes_used"] == 0.0
    assert shown["red"]["minutes_reset"].endswith("-01T00:00:00.000Z")
    for key in ("minutes_left", "minutes_budget", "runs_out"):
        assert shown["red"][key] is None, "it has no budget"
    for key in ("minutes_used", "minutes_reset", "burn_rate"):
        assert shown["theirs"][key] is None


async def test_status_foresees_when_the_minutes_of_a_server_are_out() -> None:
    async with a_pool(lambda line: line.joins(), minutes={"red": 100.0}) as setting:
        connection = await setting.session()
        await until(lambda: stays(setting))
        now, status = setting.pool.now(), await setting.pool.status()
        connection.close()

    shown: list[dict[str, Any]] = status["servers"]  # type: ignore[assignment]
    red, green = shown
    assert (red["minutes_budget"], red["burn_rate"]) == (100.0, 1.0)
    assert red["minutes_left"] == pytest.approx(100.0, abs=0.5)
    ends = datetime.fromisoformat(red["runs_out"]).timestamp()
    assert ends - now == pytest.approx(60.0 * red["minutes_left"], abs=5.0)
    assert (green["minutes_left"], green["runs_out"]) == (None, None)
