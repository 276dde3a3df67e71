"""What real LiveKit servers post to a pool, as real SDKs receive it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit.api import TokenVerifier, WebhookReceiver

from livekit_pool.local import LocalServer
from tests.real.call import Participant, make_token
from tests.real.meeting import meeting
from tests.real.node.webhooks import verified
from tests.real.pool_process import PoolProcess
from tests.real.test_minutes import LATE, ledger_of
from tests.real.until import until
from tests.web.webhooks.livekits import body_of, event, signature
from tests.web.webhooks.receiver import Receiver, receiving

NAMES = ("red", "green")


@dataclass(frozen=True, slots=True)
class Setting:
    """Two servers that post to a pool, which passes on to two receivers."""

    pool: PoolProcess
    receiver: Receiver
    other: Receiver

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the first receiver has taken."""
        return self.receiver.taken

    def told(self, kind: str, room: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The events of that kind with those fields."""
        named = [e for e in self.events if room in ("", e["room"]["name"])]
        return [e for e in named if e["event"] == kind and fields.items() <= e.items()]

    async def post(self, data: dict[str, Any]) -> None:
        """Post an event as the first server would, over a new connection: workers take turns."""
        body = body_of(data)
        sent = {"Authorization": signature(body, self.pool.servers[0].server)}
        url = f"{self.pool.http_url}/pool/webhook"
        async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=sent) as got:
            assert got.status == 200

    async def tells(
        self, kind: str, number: int = 1, *, seconds: float = 15, **fields: Any
    ) -> None:
        """Wait until so many events of that kind, with those fields, have been taken."""
        await until(
            lambda: len(self.told(kind, **fields)) >= number,
            seconds=seconds,
            what=lambda: f"{number} {kind} {fields}; {shown(self.events)}\n{self.pool.log_end()}",
        )


def shown(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (e["event"], e["server"], e["revision"], e.get("participant", {}).get("identity"))
        for e in events
    ]


@asynccontextmanager
async def passing(
    folder: Path,
    program: Path,
    *,
    url: Callable[[str], str] = lambda name: "/pool/webhook",
    pairs: Mapping[str, tuple[str, str]] | None = None,
) -> AsyncIterator[Setting]:
    """Servers, pool and receivers; ``url`` and ``pairs`` are a server's address and key pair."""
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving())
        other = await stack.enter_async_context(receiving())
        pool = PoolProcess(
            folder, [], settings={"LIVEKIT_POOL_WEBHOOK_URLS": f"{receiver.url},{other.url}"}
        )
        for name in NAMES:
            key, secret = (pairs or {}).get(name, (f"key-{name}", ""))
            webhook = {"api_key": key, "urls": [f"{pool.http_url}{url(name)}"]}
            server = LocalServer(
                name,
                program=program,
                log=folder / f"{name}.log",
                settings={"webhook": webhook, "room": {"departure_timeout": 1}},
            )
            server.key, server.secret = key, secret or server.secret
            pool.servers.append(server)
            stack.push_async_callback(server.aclose)
            await server.start()
        await stack.enter_async_context(pool)
        yield Setting(pool, receiver, other)
        assert not pool.leaks()
        assert "of-the-url" not in pool.log_text()


def replaced(pool: PoolProcess, pid: int) -> bool:
    """Whether there are two workers and ``pid`` is none."""
    return len({*pool.workers()} - {pid}) == 2


def check_with_python(setting: Setting) -> None:
    """All that came is taken by livekit-api, with the pool's key and secret and no more."""
    verifying = WebhookReceiver(TokenVerifier(setting.pool.key, setting.pool.secret))
    for got in setting.receiver.got:
        event = verifying.receive(got.body.decode(), got.headers["Authorization"])
        assert event.event == got.event["event"]
        assert event.id == got.event["id"]
        assert event.created_at == int(got.event["createdAt"])


async def check_with_node(setting: Setting) -> None:
    """And by livekit-server-sdk."""
    came = list(setting.receiver.got)  # more may come meanwhile
    given = [(got.body.decode(), got.headers["Authorization"]) for got in came]
    read = await verified(setting.pool.key, setting.pool.secret, given)
    assert [each["id"] for each in read] == [got.event["id"] for got in came]
    forged = [(body.replace('"red"', '"blue"'), token) for body, token in given[:1]]
    (refused,) = await verified(setting.pool.key, setting.pool.secret, forged)
    assert refused == {"error": "sha256 checksum of body does not match"}


@pytest.mark.needs("node")
async def test_a_rotation_in_a_call(tmp_path: Path, livekit_program: Path) -> None:
    async with passing(tmp_path, livekit_program) as setting:
        async with meeting(setting.pool) as call:
            await setting.tells("participant_joined", 2, server="red")
            await call.settled()
            revision = (await setting.pool.rotate("planned", to="green"))["revision"]
            await call.is_on("green")
            await call.runs()
            await setting.tells("participant_joined", 2, server="green")
            await setting.tells("participant_left", 2, server="red")
        await setting.tells("participant_left", 2, server="green")
        await setting.tells("room_finished", 2)

        assert len(setting.told("room_started", server="red", revision=revision - 1)) == 1
        assert len(setting.told("room_started", server="green", revision=revision)) == 1
        joined = setting.told("participant_joined")
        assert {(e["server"], e["revision"]) for e in joined} == {
            ("red", revision - 1),
            ("green", revision),
        }
        # One session of a room is on one server, and each event says on which.
        sessions = {(e["room"]["sid"], e["server"]) for e in setting.events}
        assert len(sessions) == len({sid for sid, _ in sessions}) == 2
        # Nothing came twice, though two workers took it in.
        assert len(setting.receiver.ids) == len(set(setting.receiver.ids))
        await until(
            lambda: setting.other.ids == setting.receiver.ids, seconds=5, what="both got the same"
        )
        check_with_python(setting)
        await check_with_node(setting)


@pytest.mark.timeout(120)
async def test_a_receiver_that_was_away_gets_all_in_the_same_order(
    tmp_path: Path, livekit_program: Path
) -> None:
    async with passing(tmp_path, livekit_program) as setting:
        away = setting.other
        await away.stop()
        for room in ("one", "two"):
            async with meeting(setting.pool, room):
                await setting.tells("participant_joined", 2, server="red")
        await setting.tells("room_finished", 2)
        assert away.got == []
        await setting.pool.logs("Webhook receiver does not answer")

        await away.start()

        await until(
            lambda: len(away.ids) == len(setting.receiver.ids), seconds=45, what="it got the rest"
        )
        for room in ("one", "two"):
            orders = [
                [event["id"] for event in each.taken if event["room"]["name"] == room]
                for each in (away, setting.receiver)
            ]
            assert orders[0] == orders[1]
            assert len(orders[0]) >= 6
        await setting.pool.logs("Webhook receiver answers again")
        check_with_python(setting)


async def test_the_ledger_hears_of_who_passes_the_pool_by(
    tmp_path: Path, livekit_program: Path
) -> None:
    async with passing(tmp_path, livekit_program) as setting:
        green = setting.pool.servers[1]
        token = make_token(green.key, green.secret, room="direct", identity="carol")
        async with Participant("carol") as carol:
            before = time.time()
            await carol.join(green.url, token, audio=True)
            begun = time.time()
            await setting.tells("participant_joined", server="green")
            sid = carol.room.local_participant.sid
            await asyncio.sleep(3)  # seconds that are to be counted
            leaves = time.time()
        ended = time.time()
        await setting.tells("participant_left", server="green")
        # The pool asks the servers themselves each 30 s only: nobody else has told of her.
        await setting.pool.stop()
        stay = (await ledger_of(tmp_path))["green"][sid]
        assert before - LATE <= stay.start / 1000 <= begun + LATE
        assert leaves - LATE <= stay.end / 1000 <= ended + LATE


async def test_a_stop_passes_on_what_it_can_and_says_what_it_could_not(
    tmp_path: Path, livekit_program: Path
) -> None:
    async with passing(tmp_path, livekit_program) as setting:
        await setting.other.stop()
        setting.receiver.gate = asyncio.Event()
        ids = [f"EV_{number}" for number in range(50)]
        for each in ids:
            await setting.post(event(id=each))
        await until(lambda: setting.receiver.together, seconds=5, what="the first is on its way")
        asyncio.get_running_loop().call_later(0.5, setting.receiver.gate.set)
        assert await setting.pool.stop() == 0
        assert setting.receiver.ids == ids
        lines = re.findall(
            r"Webhook not passed on.*:(\d+) why=stopped count=(\d+)", setting.pool.log_text()
        )
        assert {int(port) for port, _ in lines} == {setting.other.port}
        assert sum(int(count) for _, count in lines) == 50


async def test_whichever_worker_takes_it_in(tmp_path: Path, livekit_program: Path) -> None:
    async with passing(tmp_path, livekit_program) as setting:
        await setting.receiver.stop()
        ids = [f"EV_{number}" for number in range(100)]
        for each in ids:
            for _ in range(2):
                await setting.post(event(id=each))
        await setting.receiver.start()
        await until(lambda: len(setting.receiver.ids) >= 100, seconds=30, what="all have come")
        assert setting.receiver.ids == ids
        assert setting.other.ids == ids


@pytest.mark.timeout(120)
async def test_the_workers_are_killed_while_a_receiver_is_away(
    tmp_path: Path, livekit_program: Path
) -> None:
    async with passing(tmp_path, livekit_program) as setting:
        away = setting.other
        await away.stop()
        # One of them passes on, and its successor has to know what it still held.
        for pid in setting.pool.workers():
            async with meeting(setting.pool, f"before-{pid}"):
                await setting.tells("participant_joined", 2, room=f"before-{pid}")
            await setting.tells("room_finished", room=f"before-{pid}")
            os.kill(pid, signal.SIGKILL)
            await until(partial(replaced, setting.pool, pid), seconds=10, what="it is replaced")
        async with meeting(setting.pool, "after"):
            await setting.tells("participant_joined", 2, room="after")
        await setting.tells("room_finished", room="after")
        assert away.got == []

        await away.start()

        ids = list(dict.fromkeys(setting.receiver.ids))  # a kill may make one come twice
        await until(
            lambda: set(away.ids) == set(ids), seconds=45, what=lambda: f"{away.ids} of {ids}"
        )
        for room in {event["room"]["name"] for event in setting.events}:
            orders = [
                list(dict.fromkeys(e["id"] for e in each.taken if e["room"]["name"] == room))
                for each in (away, setting.receiver)
            ]
            assert orders[0] == orders[1]


async def test_servers_with_one_key_are_told_apart_by_their_address(
    tmp_path: Path, livekit_program: Path
) -> None:
    pair = ("key-one", "secret-of-both-secret-of-both-secret")
    async with passing(
        tmp_path,
        livekit_program,
        url=lambda name: f"/pool/webhook?server={name}",
        pairs=dict.fromkeys(NAMES, pair),
    ) as setting:
        async with meeting(setting.pool) as call:
            await setting.tells("participant_joined", 2, server="red")
            await call.settled()
            await setting.pool.rotate("planned", to="green")
            await call.is_on("green")
            await setting.tells("participant_joined", 2, server="green")
            await setting.tells("participant_left", 2, server="red")
        sessions = {(e["room"]["sid"], e["server"]) for e in setting.events}
        assert len(sessions) == len({sid for sid, _ in sessions}) == 2


async def test_servers_with_one_key_are_told_apart_by_the_rooms(
    tmp_path: Path, livekit_program: Path
) -> None:
    pair = ("key-one", "secret-of-both-secret-of-both-secret")
    async with passing(tmp_path, livekit_program, pairs=dict.fromkeys(NAMES, pair)) as setting:
        async with meeting(setting.pool) as call:
            await setting.tells("participant_joined", 2, server="red")
            await call.settled()
            await setting.pool.rotate("planned", to="green")
            await call.is_on("green")
            await setting.tells("participant_joined", 2, server="green")
            await setting.tells("participant_left", 2, server="red")
        sessions = {(e["room"]["sid"], e["server"]) for e in setting.events}
        assert len(sessions) == len({sid for sid, _ in sessions}) == 2
