"""
Google's emulator of Firestore, on a free loopback port.

It keeps everything in memory: one that is killed has lost it all.
"""

from __future__ import annotations

import atexit
import socket
import subprocess
import time
import urllib.error
import urllib.request

from tests.conftest import find_firestore

__all__ = ["Emulator"]

_MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_SMALL = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_shared: Emulator | None = None


class Emulator:
    """
    One emulator, started and ready.

    Attributes:
        address: host and port, as ``FIRESTORE_EMULATOR_HOST`` has it.
    """

    def __init__(self) -> None:
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = self._start()

    @classmethod
    def shared(cls) -> Emulator:
        """The one of this run of tests: it takes seconds to start. Nobody may stop it."""
        global _shared
        if _shared is None:
            _shared = cls()
            atexit.register(_shared.kill)
        return _shared

    def kill(self) -> None:
        """End it without a chance to say so to anybody."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again where it was, empty."""
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        found = find_firestore()
        assert found is not None
        java, jar = found
        command = [str(java), *_SMALL, "-cp", str(jar), _MAIN, "start", "--host=127.0.0.1"]
        # In a process group of its own: an interrupt at the keyboard is for the tests.
        process = subprocess.Popen(
            [*command, f"--port={self.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not self._ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError("the Firestore emulator did not start")
            time.sleep(0.05)
        return process

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
