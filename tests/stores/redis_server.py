"""A real Redis for tests: started on loopback with files of its own, and ended by the test."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from livekit_pool.local import reserve_port
from tests.conftest import find_tool

_SECONDS = 20.0


class RedisServer:
    """
    One ``redis-server``.

    Attributes:
        port: where it listens, on 127.0.0.1; 0 where it listens at ``socket`` only.
        socket: its Unix socket.
    """

    def __init__(
        self,
        folder: Path,
        *settings: str,
        tls: bool = False,
        keeps: bool = False,
        running: bool = True,
    ) -> None:
        """
        Make one whose files are in ``folder``.

        Args:
            settings: further lines of its configuration.
            tls: whether its port is for TLS, which ``settings`` then say more of.
            keeps: whether it writes its data to disk before it answers.
            running: whether to start it at once.
        """
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = free_port()
        # A path of a Unix socket has room for some hundred characters.
        self.socket = folder / "redis.sock"
        self._command = [str(find_tool("redis"))]
        lines = [
            "bind 127.0.0.1",
            f"port {0 if tls else self.port}",
            f"dir {folder}",
            f"unixsocket {self.socket}",
            "daemonize no",
            'save ""',
            f"logfile {folder / 'redis.log'}",
            f"appendonly {'yes' if keeps else 'no'}",
            "appendfsync always",
            *([f"tls-port {self.port}"] if tls else []),
            *settings,
        ]
        (folder / "redis.conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        if running:
            self.start()

    @property
    def url(self) -> str:
        """Its ``redis://`` URL."""
        return f"redis://127.0.0.1:{self.port}"

    def runs_by(self, *command: str) -> None:
        """From its next start on it is run by ``command``, such as one that changes its network."""
        self._command = [*command, *self._command]

    def start(self) -> None:
        """Start it, with what its files hold, and wait until it listens."""
        self._process = subprocess.Popen(
            [*self._command, str(self.folder / "redis.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _SECONDS
        while not self._listens():
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < deadline, self._log()
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, also if it is frozen; idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Throw away what it keeps on disk; to be called while it does not run."""
        for kept in (self.folder / "appendonlydir").glob("*"):
            kept.unlink()

    def keep_copy(self) -> None:
        """Copy what it keeps on disk now, for `put_back`."""
        shutil.copytree(self.folder / "appendonlydir", self.folder / "copy", dirs_exist_ok=True)

    def put_back(self) -> None:
        """Let it have the copy's data from its next start on, as after a restored backup."""
        self.forget()
        shutil.copytree(self.folder / "copy", self.folder / "appendonlydir", dirs_exist_ok=True)

    def freeze(self) -> None:
        """Let it stop where it is, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """Ask it something that a pool never asks, and return the answer as it comes."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as asking:
            asking.settimeout(_SECONDS)
            asking.connect(str(self.socket))
            packed = [f"*{len(words)}\r\n".encode()]
            encoded = [word.encode(errors="surrogateescape") for word in words]
            packed += [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
            asking.sendall(b"".join(packed) + b"*1\r\n$4\r\nQUIT\r\n")
            answer = b""
            while piece := asking.recv(2**16):
                answer += piece
            return answer.decode(errors="replace").removesuffix("+OK\r\n").strip()

    def _listens(self) -> bool:
        try:
            return self.command("PING").endswith("PONG") or "NOAUTH" in self.command("PING")
        except OSError:
            return False

    def _log(self) -> str:
        log = self.folder / "redis.log"
        return log.read_text() if log.exists() else "it wrote no log"


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, out of the range of outgoing connections."""
    port, held = reserve_port()
    held.close()
    return port
