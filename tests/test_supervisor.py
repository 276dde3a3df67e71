"""The supervisor with real processes: what a death of any of them means to clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from livekit_pool.local import reserve_port
from tests.supervised import STUBBORN

T = TypeVar("T")
ENDED = "end, signals restored: True\n"
ROOT = Path(__file__).parents[1]


def until(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """Wait for ``condition``; its first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def stalls(program: Supervised) -> bool:
    """Whether the one worker answers nobody."""
    try:
        program.get(timeout=0.3)
    except TimeoutError:
        return True
    return False


class Supervised:
    """`tests.supervised` as a process."""

    def __init__(self, tmp_path: Path, **patience: float) -> None:
        self.port, self._held = reserve_port()
        self._log = tmp_path / "stderr.txt"
        self._patience = json.dumps(patience)
        self._process: subprocess.Popen[str] | None = None

    def start(
        self, kind: str = "serve", workers: int = 2, prefix: tuple[str, ...] = (), **options: Any
    ) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.supervised"]  # noqa: RUF005  readable so
                + [str(self.port), str(workers), kind, self._patience],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                **options,
            )
        return self

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return self._log.read_text()

    def events(self, name: str, field: str) -> list[str]:
        """The values of ``field`` in the events ``name``, in order."""
        return re.findall(rf"{name} .*?\b{field}=(\S+)", self.log)

    def get(self, path: str = "/", timeout: float = 10.0) -> dict[str, Any]:
        """Ask on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer

    def workers(
        self, count: int = 2, without: frozenset[int] | set[int] = frozenset()
    ) -> dict[int, int]:
        """Number -> pid of ``count`` answering workers, once that many answer."""
        found: dict[int, int] = {}
        until(self._listens)

        def all_answer() -> bool:
            try:
                answer = self.get()
            except (OSError, http.client.HTTPException):
                return False  # it had been accepted by one that died
            if answer["pid"] not in without:
                found[answer["number"]] = answer["pid"]
            return len(found) == count

        until(all_answer, 30)
        return found

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self) -> tuple[int, str]:
        """Exit code and standard output, once the process has ended."""
        out, _ = self.process.communicate(timeout=20)
        return self.process.returncode, out

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate(timeout=20)
        self._held.close()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    # Nothing that ends in time does so because the supervisor lost its patience.
    program = Supervised(tmp_path, stop=60)
    yield program
    program.close()


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Supervised]:
    """One that waits for less, for what would take too long otherwise."""
    program = Supervised(tmp_path, silence=2.5, stop=1.5)
    yield program
    program.close()


class Load:
    """Clients that ask one after another, each time on a new connection."""

    def __init__(self, program: Supervised, clients: int = 4) -> None:
        self._program = program
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.answers = 0
        self.lost: list[Exception] = []
        self.refused: list[Exception] = []

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                self._program.get()
                self.answers += 1
            except ConnectionRefusedError as error:
                self.refused.append(error)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until(lambda: self.answers > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def test_a_killed_worker_is_replaced_and_no_connection_is_refused(supervised: Supervised) -> None:
    before = supervised.start().workers()
    with Load(supervised) as load:
        os.kill(before[0], signal.SIGKILL)
        after = supervised.workers(without={before[0]})
        asked = load.answers
        until(lambda: load.answers > asked + 50)
    assert after[1] == before[1]
    assert not load.refused
    # What the dead one had accepted died with it: at most one connection of each client.
    assert len(load.lost) <= 4


def test_with_all_workers_killed_clients_wait_in_the_backlog(supervised: Supervised) -> None:
    before = supervised.start().workers()
    with Load(supervised) as load:
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        assert supervised.get()["pid"] not in before.values()
        waited = time.monotonic() - killed
        supervised.workers(without=set(before.values()))
    assert not load.refused
    assert waited < 5  # the promise: what the SDKs themselves wait


def test_workers_end_with_the_supervisor_and_leave_the_port_free(supervised: Supervised) -> None:
    workers = supervised.start().workers()
    supervised.process.kill()
    killed = time.monotonic()
    until(lambda: not any(map(alive, workers.values())))
    assert time.monotonic() - killed < 3  # the promise is one second; the machine may be busy
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", supervised.port))
        sock.listen()


def test_an_orphan_that_cannot_stop_is_ended_by_the_kernel(supervised: Supervised) -> None:
    supervised.start("stubborn", workers=1)
    (pid,) = until(lambda: supervised.events(STUBBORN, "pid"))
    supervised.process.kill()
    until(lambda: not alive(int(pid)), 3)


def test_an_orphan_that_stands_still_is_ended_by_the_kernel(supervised: Supervised) -> None:
    pid = supervised.start(workers=1).workers(1)[0]
    with socket.create_connection(("127.0.0.1", supervised.port)) as connection:
        connection.sendall(b"GET /stall HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: stalls(supervised))
        supervised.process.kill()
        until(lambda: not alive(pid), 12)


def test_a_stopped_and_a_stalled_worker_are_replaced(supervised: Supervised) -> None:
    before = supervised.start().workers()
    # First, so that it is the other one that takes the connection, and stalls.
    os.kill(before[0], signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", supervised.port)) as connection:
        connection.sendall(b"GET /stall HTTP/1.1\r\nHost: x\r\n\r\n")
        after = until(lambda: supervised.workers(without=set(before.values())), 20)
    assert set(after) == set(before)
    assert sorted(supervised.events("Worker is silent and is killed", "pid")) == sorted(
        map(str, before.values())
    )
    assert not any(map(alive, before.values()))


def test_silence_during_the_supervisors_own_absence_condemns_nobody(hasty: Supervised) -> None:
    workers = hasty.start().workers()
    everybody = [hasty.process.pid, *workers.values()]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)  # longer than `silence`, as when the machine sleeps
    os.kill(hasty.process.pid, signal.SIGHUP)
    os.kill(hasty.process.pid, signal.SIGCONT)
    until(lambda: "SIGHUP ignored" in hasty.log)
    for pid in workers.values():
        os.kill(pid, signal.SIGCONT)
    assert hasty.workers() == workers
    assert not hasty.events("Worker is silent and is killed", "pid")


def test_a_crash_loop_backs_off_and_leaves_no_zombies(supervised: Supervised) -> None:
    supervised.start("crash", workers=1)
    until(lambda: len(supervised.events("replaced after a pause", "pause")) >= 5)
    assert supervised.events("replaced after a pause", "pause")[:5] == [
        "0.100", "0.200", "0.400", "0.800", "1.600"
    ]  # fmt: skip
    children = Path(f"/proc/{supervised.process.pid}/task/{supervised.process.pid}/children")
    assert children.read_text() == ""
    assert "may hold a secret" not in supervised.log
    assert "Traceback" not in supervised.log
    supervised.process.terminate()
    assert supervised.end() == (0, ENDED)


def test_workers_that_all_refuse_the_configuration_end_the_supervisor(
    supervised: Supervised,
) -> None:
    assert supervised.start("refuse").end() == (2, ENDED)
    last = supervised.log.splitlines()[-1]
    assert last == "LIVEKIT_POOL_STORE names a file that is not a database. Choose another!"
    assert "Worker died" not in supervised.log
    assert "Traceback" not in supervised.log


def test_one_worker_that_refuses_does_not_end_the_others(supervised: Supervised) -> None:
    supervised.start("first_refuses")
    refused = "Worker refused the configuration and is tried again"
    until(lambda: len(supervised.events(refused, "worker")) >= 2)
    assert supervised.get()["number"] == 1
    assert 'worker=0 why="LIVEKIT_POOL_STORE names' in supervised.log


def test_a_fork_that_fails_is_tried_again(supervised: Supervised) -> None:
    supervised.start("unforkable").workers()
    assert supervised.log.count("it cannot be started: Resource temporarily unavailable") == 3


def test_a_planned_stop_answers_what_was_asked(supervised: Supervised) -> None:
    workers = supervised.start().workers()
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(supervised.get("/slow")))
    client.start()
    until(lambda: _connections(supervised.port))
    supervised.process.terminate()
    client.join()
    assert answers[0]["pid"] in workers.values()
    assert supervised.end() == (0, ENDED)
    assert not any(map(alive, workers.values()))
    assert "died" not in supervised.log


def test_a_ctrl_c_of_the_terminal_is_one_planned_stop(supervised: Supervised) -> None:
    supervised.start().workers()
    os.killpg(supervised.process.pid, signal.SIGINT)
    assert supervised.end() == (0, ENDED)
    assert "Worker failed" not in supervised.log


def test_a_planned_stop_ends_also_with_workers_that_do_not(hasty: Supervised) -> None:
    hasty.start("stubborn")
    until(lambda: len(hasty.events(STUBBORN, "pid")) == 2)
    pids = hasty.events(STUBBORN, "pid")
    hasty.process.terminate()
    assert hasty.end()[0] == 0
    assert not any(alive(int(pid)) for pid in pids)


def test_a_second_signal_ends_at_once(supervised: Supervised) -> None:
    supervised.start("stubborn")
    until(lambda: len(supervised.events(STUBBORN, "pid")) == 2)
    supervised.process.terminate()
    until(lambda: "Stopping " in supervised.log)
    supervised.process.terminate()
    assert supervised.end()[0] == 0
    assert "Stopping at once" in supervised.log


def test_one_worker_probes_and_passes_it_on_with_its_death(supervised: Supervised) -> None:
    supervised.start(workers=3).workers(3)
    probing: dict[int, bool] = {}

    def all_told() -> bool:
        answer = supervised.get()
        probing[answer["pid"]] = answer["probing"]
        return len(probing) == 3

    until(all_told)
    assert sorted(probing.values()) == [False, False, True]
    first = next(pid for pid, yes in probing.items() if yes)
    os.kill(first, signal.SIGKILL)
    until(lambda: (answer := supervised.get())["probing"] and answer["pid"] != first)


def test_a_port_in_use_is_one_sentence(supervised: Supervised) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", supervised.port))
        other.listen()
        assert supervised.start().end()[0] == 2
    assert supervised.log == (
        f"LIVEKIT_POOL_PORT {supervised.port} is in use on 127.0.0.1: "
        "stop the program that listens there, or choose another port.\n"
    )


def test_systemds_socket_is_adopted(supervised: Supervised) -> None:
    with socket.socket() as passed:
        passed.bind(("127.0.0.1", 0))
        passed.listen()
        supervised.start(
            prefix=("bash", "-c", f'LISTEN_PID=$$ exec "$@" 3<&{passed.fileno()}', "bash"),
            pass_fds=[passed.fileno()],
            env={**os.environ, "LISTEN_FDS": "1"},
        )
        supervised.port = passed.getsockname()[1]
        passed.close()
        supervised.workers()


def _connections(port: int) -> bool:
    """Whether some connection to ``port`` is established and accepted."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(
        line.split()[1] == wanted and line.split()[3] == "01" and line.split()[9] != "0"
        for line in lines
    )


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    """A session takes two files, and the usual soft limit would end the pool at 500 of them."""
    code = (
        "import resource; from livekit_pool.web.listener import raise_file_limit;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096)); raise_file_limit();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "(4096, 4096)"
