"""Google's emulator of Firestore, on a free loopback port."""

from __future__ import annotations

import atexit
import json
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.conftest import find_firestore

from .redis_server import free_port

__all__ = ["Emulator"]

_MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_SMALL = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_SECONDS = 60.0


class Emulator:
    """
    One emulator. It keeps everything in memory: when it is killed it has lost all but what was
    exported, if it is started with that.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    _shared: Emulator | None = None
    _idle: list[Emulator] = []  # noqa: RUF012

    def __init__(self, rules: Path | None = None) -> None:
        """``rules`` are security rules, for who does not come as an owner."""
        self.port = free_port()
        self._rules = [f"--rules={rules}"] if rules else []
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.kill)

    @classmethod
    def shared(cls) -> Emulator:
        """The one for all tests that do it no harm: to start one takes seconds."""
        if Emulator._shared is None:
            Emulator._shared = cls()
            Emulator._shared.start()
        return Emulator._shared

    @classmethod
    def borrowed(cls) -> Emulator:
        """One to be killed, with the data of others in it; it may run already. Bring it back."""
        return cls._idle.pop() if cls._idle else cls()

    def bring_back(self) -> None:
        """Let others have it."""
        if self._process is not None:
            self.thaw()
        Emulator._idle.append(self)

    @property
    def address(self) -> str:
        """Its host and port, as ``FIRESTORE_EMULATOR_HOST`` has them."""
        return f"127.0.0.1:{self.port}"

    def start(self, export: Path | None = None) -> None:
        """Start it, empty or with an ``export``, and wait until it answers; idempotent."""
        if self._process is not None:
            return
        seed = [f"--seed_from_export={export}"] if export else []
        found = find_firestore()
        assert found is not None
        java, jar = found
        command = [str(java), *_SMALL, "-cp", str(jar), _MAIN, "start"]
        self._process = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={self.port}", *self._rules, *seed],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _SECONDS
        while not self._ready():
            assert self._process.poll() is None, "the Firestore emulator ended at once"
            assert time.monotonic() < deadline, "the Firestore emulator does not answer"
            time.sleep(0.05)

    def export(self, project: str, directory: Path) -> Path:
        """Write what ``project`` has in its database to files; the one to start with."""
        directory.mkdir(exist_ok=True)
        name = f"export-{secrets.token_hex(4)}"
        wanted = {
            "database": f"projects/{project}/databases/(default)",
            "export_directory": str(directory),
            "export_name": name,
        }
        request = urllib.request.Request(
            f"http://{self.address}/emulator/v1/projects/{project}:export",
            data=json.dumps(wanted).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        return directory / name / f"{name}.overall_export_metadata"

    def kill(self) -> None:
        """End it at once, also if it is frozen; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Let it stop where it is, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
