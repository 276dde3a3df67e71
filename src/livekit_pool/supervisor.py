"""
The supervisor: holds the listening socket and keeps the workers running.

                       supervisor (no event loop, no threads, no store)
                        | fork          ^ beats, last sentence (a pipe for each worker)
        end of the      v               |
        supervisor -> worker 0 .. worker N-1, all accepting from the one inherited socket

Media does not pass through a worker, so its death need not be heard; but clients must never find
the port closed, for the Rust SDKs (Python, Node, Unity) turn to a full reconnect after a single
refused resume. So the process that holds the socket does nothing that could kill it: it forks,
waits, and forks again. What connects while no worker lives waits in the socket's backlog.

Signals: SIGTERM and SIGINT are a planned stop (the workers say goodbye to their clients, within
10 s), a second one ends at once. SIGHUP is ignored: a changed configuration takes a restart.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NoReturn

from . import config
from .exceptions import ConfigurationError, PoolError, StoreCorrupt
from .observe import event, failure
from .stores import store_from_url
from .upstream.probe_lock import ProbeLock
from .web import listener
from .web.life import BEAT, SENTENCE, Life
from .web.webhooks.spool import Spool

if TYPE_CHECKING:
    from .config import Settings

__all__ = ["Patience", "Supervisor", "run"]

#: What a worker does with its life: serves on the socket, and returns when it is asked to stop.
WorkerMain = Callable[["Settings", socket.socket, Life], None]

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)

LISTENING: Final = "Listening"
WARNED: Final = "Configuration warning"
STARTED: Final = "Worker started"
DIED: Final = "Worker died and is replaced"
CRASHED: Final = "Worker died at its start and is replaced after a pause"
REFUSED: Final = "Worker refused the configuration and is tried again"
SILENT: Final = "Worker is silent and is killed"
WORKER_FAILED: Final = "Worker failed"
IGNORED: Final = "SIGHUP ignored: a changed configuration takes a restart"
STOPPING: Final = "Stopping"
STOPPING_AT_ONCE: Final = "Stopping at once"

#: Exit code of a worker that refuses its configuration (as of the command itself).
_REFUSED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """
    How long the supervisor waits for what, in seconds.

    Attributes:
        silence: a worker that sent no beat for so long is killed.
        settle: a worker that dies younger than this is a crash at start.
        first_pause, longest_pause: before the replacement of a worker that crashed at start;
            doubled with each such crash in a row. Any other death is replaced at once.
        refusal: before a worker that refused the configuration is tried again, if not all did.
        stop: for the workers to end by themselves in a planned stop.
    """

    silence: float = 5.0
    settle: float = 5.0
    first_pause: float = 0.1
    longest_pause: float = 5.0
    refusal: float = 2.0
    stop: float = 10.0


def run(
    settings: Settings,
    *,
    worker_main: WorkerMain | None = None,
    patience: Patience | None = None,
) -> int:
    """
    Serve the pool until a signal says stop.

    Binds the socket (or adopts systemd's), makes the key pair if there is none, imports what a
    worker needs, so that each fork has it at once, and forks the workers.

    Args:
        settings: the whole configuration.
        worker_main: what each worker runs; `livekit_pool.web.worker.serve_worker` by default.
        patience: how long to wait for what.

    Returns:
        0 after a planned stop.

    Raises:
        ConfigurationError: the configuration cannot be served: the port is in use, the
            certificate cannot be read, or every worker refused it at its start.
    """
    store = store_from_url(settings.store).url  # opens nothing
    listener.raise_file_limit()
    with listener.listen(settings.host, settings.port) as sock:
        # What it really listens on: the port may be the system's choice, the socket systemd's; and
        # what is allowed on loopback only (no key pair, open tokens) hangs on the true address.
        host, port = sock.getsockname()[:2]
        settings = config.ensure_key_pair(replace(settings, host=host, port=port))
        if worker_main is None:
            from .web.worker import check, serve_worker

            check(settings)
            worker_main = serve_worker
        main = worker_main
        for warning in settings.warnings:
            event(WARNED, logging.WARNING, warning=warning)
        event(
            LISTENING,
            url=settings.origin.ws_url,
            servers=",".join(server.name for server in settings.servers),
            store=store,
            key_pair=settings.key_origin,
            workers=settings.workers,
        )
        return Supervisor(
            lambda life: main(settings, sock, life), workers=settings.workers, patience=patience
        ).run()


@dataclass(slots=True)
class _Worker:
    """
    A worker process that nobody has waited for yet.

    Attributes:
        beats: our end of its pipe, non-blocking.
        started, heard: when it was forked, when it last wrote something.
        ended: it has closed its end of the pipe.
        said: what it wrote, from the first thing on that is not a beat.
    """

    pid: int
    beats: int
    started: float
    heard: float
    ended: bool = False
    said: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Place:
    """
    One of the N places for a worker.

    Attributes:
        number: from 0.
        worker: who lives there, if anybody.
        due: when the next one is to be started, where nobody lives.
        crashes: crashes at start in a row.
        refusal: the sentence with which a worker refused the configuration, until one settled.
    """

    number: int
    worker: _Worker | None = None
    due: float = 0.0
    crashes: int = 0
    refusal: str | None = None


class Supervisor:
    """
    Keeps ``workers`` processes running, each of which calls ``start`` with its `Life`.

    One thread, no event loop; all waiting is one ``poll(2)`` on the workers' pipes and on the
    pipe into which the interpreter writes the numbers of signals.
    """

    def __init__(
        self,
        start: Callable[[Life], None],
        *,
        workers: int,
        patience: Patience | None = None,
    ) -> None:
        """
        Prepare; nothing is started yet.

        Args:
            start: runs in each worker until it is asked to stop. Raising `ConfigurationError`
                refuses the configuration; any other exception is a crash.
            workers: how many, at least 1.
            patience: the waits.
        """
        self._start = start
        self._patience = patience or Patience()
        self._places = [_Place(number) for number in range(workers)]
        self._probe_lock = ProbeLock()
        self._spool = Spool()
        self._signals_in, self._signals_out = _pipe()
        # Nobody ever writes to this one: the workers wait for its end.
        self._end_in, self._end_out = _pipe()
        self._settled = False
        self._stop_by: float | None = None
        self._now = time.monotonic()

    def run(self) -> int:
        """
        Run the workers until a planned stop is done.

        Returns:
            0.

        Raises:
            ConfigurationError: all workers refused the configuration before any of them settled.
        """
        # What is there now will live on in all workers: the collector need not touch (and so
        # copy) it in each of them.
        gc.collect()
        gc.freeze()
        with self._hearing_signals():
            try:
                while self._stop_by is None or self._living():
                    self._round()
            finally:
                self._kill_all()
                for fd in (self._end_in, self._end_out, self._signals_in, self._signals_out):
                    os.close(fd)
                self._probe_lock.close()
                self._spool.close()
        return 0

    # -- one round --

    def _round(self) -> None:
        """Start whoever is due, wait until something happens, and see to it."""
        if self._stop_by is None:
            for place in self._places:
                if place.worker is None and place.due <= self._now:
                    self._fork(place)
        before, wait = self._now, self._until_next()
        self._wait(wait)
        self._now = time.monotonic()
        overslept = self._now - before - wait
        for place in self._places:
            if place.worker is not None:
                if overslept > 1:
                    # Silence during our own absence (stopped, swapped out) condemns nobody.
                    place.worker.heard = self._now
                self._hear(place.worker)
        for number in self._signals():
            self._on_signal(number)
        self._reap()
        self._judge()

    def _until_next(self) -> float:
        """Seconds until something is due that no descriptor will tell."""
        at = [self._now + 1.0]
        for place in self._places:
            if place.worker is not None:
                at.append(place.worker.heard + self._patience.silence)
            elif self._stop_by is None:
                at.append(place.due)
        if self._stop_by is not None:
            at.append(self._stop_by)
        return max(0.0, min(at) - self._now)

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._signals_in, select.POLLIN)
        for place in self._places:
            # The end of a pipe comes just before the death of its worker, which SIGCHLD tells;
            # polled for it, it would make us spin in between.
            if place.worker is not None and not place.worker.ended:
                poll.register(place.worker.beats, select.POLLIN)
        poll.poll(seconds * 1000)

    def _hear(self, worker: _Worker) -> None:
        """Read what the worker wrote."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(worker.beats, 4096):
                worker.heard = self._now
                worker.said += data if worker.said else data.lstrip(BEAT)
            worker.ended = True

    # -- starting --

    def _fork(self, place: _Place) -> None:
        if place.refusal is not None:
            event(REFUSED, logging.ERROR, worker=place.number, why=place.refusal)
        beats_in, beats_out = _pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # No signal may run our handlers in the child before it has put them back.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(place.number, beats_in, beats_out)
        except OSError as error:
            # No memory or too many processes: as if it had crashed.
            os.close(beats_in)
            self._pause(place, f"it cannot be started: {error.strerror}")
            return
        finally:
            os.close(beats_out)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        now = time.monotonic()
        place.worker = _Worker(pid=pid, beats=beats_in, started=now, heard=now)
        event(STARTED, logging.DEBUG, worker=place.number, pid=pid)

    def _be_worker(self, number: int, beats_in: int, beats_out: int) -> NoReturn:
        """Be the child: leave everything of the parent's behind, work, and end. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A Ctrl-C reaches the whole terminal group; the supervisor passes it on, as SIGTERM.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            for fd in (self._signals_in, self._signals_out, self._end_out, beats_in):
                os.close(fd)
            for place in self._places:
                if place.worker is not None:
                    os.close(place.worker.beats)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            life = Life(
                beat_fd=beats_out,
                end_fd=self._end_in,
                probe_lock=self._probe_lock,
                spool=self._spool,
                number=number,
            )
            code = _work(self._start, life)
        finally:
            # Not sys.exit: the frames below belong to the parent's life, not to this one's.
            os._exit(code)

    # -- dying --

    def _reap(self) -> None:
        """See who died, and decide when the place is filled again."""
        for place in self._places:
            worker = place.worker
            if worker is None:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            self._hear(worker)
            os.close(worker.beats)
            place.worker = None
            if self._stop_by is None:
                self._bury(place, worker, os.waitstatus_to_exitcode(status))
        refusals = [place.refusal for place in self._places]
        if self._stop_by is None and not self._settled and all(refusals):
            raise ConfigurationError(refusals[0])

    def _bury(self, place: _Place, worker: _Worker, code: int) -> None:
        """A worker died that nobody had asked to."""
        age = self._now - worker.started
        said = bytes(worker.said).partition(SENTENCE)[2].decode(errors="replace")
        if code == _REFUSED and said:
            # Said when it is tried again: if the others refuse it too, that is the last word.
            place.refusal, place.due = said, self._now + self._patience.refusal
            return
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if age < self._patience.settle:
            self._pause(place, how)
            return
        place.crashes, place.due = 0, self._now
        event(DIED, logging.WARNING, worker=place.number, pid=worker.pid, how=how)

    def _pause(self, place: _Place, how: str) -> None:
        """Let the place be empty for a while: filled at once, it would fail at once."""
        pause = self._patience.first_pause * 2 ** min(place.crashes, 30)
        pause = min(pause, self._patience.longest_pause)
        place.crashes += 1
        place.due = self._now + pause
        event(CRASHED, logging.ERROR, worker=place.number, how=how, pause=pause)

    def _judge(self) -> None:
        """Kill the silent; note who has settled; end a planned stop that takes too long."""
        for place in self._places:
            worker = place.worker
            if worker is None:
                continue
            if self._now - worker.heard >= self._patience.silence:
                event(SILENT, logging.WARNING, worker=place.number, pid=worker.pid)
                worker.heard = self._now
                _kill(worker.pid, signal.SIGKILL)
            elif self._now - worker.started >= self._patience.settle:
                self._settled = True
                place.refusal = None
                place.crashes = 0
        if self._stop_by is not None and self._now >= self._stop_by:
            self._kill_all()

    # -- stopping --

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            event(IGNORED)
        elif number in _STOP_SIGNALS:
            if self._stop_by is not None:
                event(STOPPING_AT_ONCE, logging.WARNING)
                self._kill_all()
                return
            event(STOPPING, signal=signal.Signals(number).name)
            self._stop_by = self._now + self._patience.stop
            for worker in self._living():
                _kill(worker.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        """End all workers at once, and wait for it: SIGKILL is not refused."""
        for place in self._places:
            if place.worker is not None:
                _kill(place.worker.pid, signal.SIGKILL)
        for place in self._places:
            if place.worker is not None:
                os.waitpid(place.worker.pid, 0)
                os.close(place.worker.beats)
                place.worker = None

    def _living(self) -> list[_Worker]:
        return [place.worker for place in self._places if place.worker is not None]

    # -- signals --

    @contextlib.contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """Have the numbers of signals written into our pipe, and put everything back after."""
        before = {number: signal.signal(number, lambda *_: None) for number in _HANDLED}
        wakeup = signal.set_wakeup_fd(self._signals_out, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signals(self) -> bytes:
        """The numbers of the signals that came since the last call."""
        try:
            return os.read(self._signals_in, 4096)
        except BlockingIOError:
            return b""


def _work(start: Callable[[Life], None], life: Life) -> int:
    """Run a worker's life; its exit code."""
    try:
        start(life)
    except (ConfigurationError, StoreCorrupt) as error:
        # Both are for a person to mend: nothing that this process could do is.
        life.refuse(str(error))
        return _REFUSED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except PoolError as error:
        event(WORKER_FAILED, logging.ERROR, worker=life.number, why=error)
        return 1
    except BaseException as error:
        # The process's outermost frame: the supervisor sees only an exit code.
        failure(WORKER_FAILED, error, worker=life.number)
        return 1
    finally:
        logging.shutdown()
    return 0


def _pipe() -> tuple[int, int]:
    """A pipe whose ends never block and are closed on exec."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


def _kill(pid: int, number: signal.Signals) -> None:
    """Signal a child of ours that we have not waited for, whose number so is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
