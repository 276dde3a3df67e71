"""
A network namespace, and wires from there to here: for a Redis that each process of a pool reaches
by a wire of its own, or for a pool that reaches each server so.

What is cut here is cut below TCP: packets are lost, and nobody is told. Linux only, as root; see
ip-netns(8), ip-neighbour(8).
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.stores.redis_server import RedisServer

# Nobody has this address: what is sent to it is lost on the wire.
_NOBODY = "02:00:00:00:00:01"

_NETWORKS = itertools.cycle(f"10.77.{number}" for number in range(256))


class Namespace:
    """
    A namespace with ``wires`` wires to this one; a context manager.

    Attributes:
        addresses: those of the namespace's ends, by wire.
        near: those of this side's ends.
    """

    _made = itertools.count()

    def __init__(self, wires: int) -> None:
        # Other names and addresses each time: the kernel takes its time to forget the last ones.
        self._unique = f"{os.getpid() % 10_000}x{next(self._made)}"
        self._name = f"lkpool{self._unique}"
        # Nor those of a run that was killed, whose wires nobody has taken away.
        taken = _ip("-o", "-4", "addr")
        free = (network for network in _NETWORKS if f" {network}." not in taken)
        self._wires = [next(free) for _ in range(wires)]
        self.addresses = [f"{wire}.2" for wire in self._wires]
        self.near = [f"{wire}.1" for wire in self._wires]

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            for number in range(len(self.addresses)):
                here, there = self._ends(number)
                _ip("link", "add", here, "type", "veth", "peer", "name", there)
                _ip("link", "set", there, "netns", self._name)
                _ip("addr", "add", f"{self._wires[number]}.1/30", "dev", here)
                _ip("link", "set", here, "up")
                self._inside("addr", "add", f"{self._wires[number]}.2/30", "dev", there)
                self._inside("link", "set", there, "up")
            self._inside("link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self.addresses)):  # the other end goes with it
            _ip("link", "del", self._ends(number)[0], must=False)
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)
        shutil.rmtree(self._etc, ignore_errors=True)

    @property
    def _etc(self) -> Path:
        # What `ip netns exec` puts in the place of files in /etc: ip-netns(8).
        return Path("/etc/netns") / self._name

    @property
    def command(self) -> tuple[str, ...]:
        """What to put before a command that is to run in the namespace."""
        return ("ip", "netns", "exec", self._name)

    def resolves_by(self, wire: int, *options: str) -> None:
        """From now on what is started in the namespace asks a DNS server at `near`."""
        self._etc.mkdir(parents=True, exist_ok=True)
        lines = [f"nameserver {self.near[wire]}", f"options {' '.join(options)}"]
        (self._etc / "resolv.conf").write_text("\n".join(lines) + "\n")

    def redis(self, folder: Path) -> RedisServer:
        """A Redis in the namespace, at all its addresses."""
        redis = RedisServer(folder, "bind 0.0.0.0", "protected-mode no", keeps=True, running=False)
        redis.runs_by(*self.command)
        redis.start()
        return redis

    def cut(self, wire: int) -> None:
        """Lose all packets of a wire."""
        _ip("link", "set", self._ends(wire)[0], "down")

    def take_down(self, wire: int) -> None:
        """Take the interface inside the namespace down: there is no route from there any more."""
        self._inside("link", "set", self._ends(wire)[1], "down")

    def lose_questions(self, wire: int) -> None:
        """Lose what is sent into the namespace."""
        here, _ = self._ends(wire)
        _ip(
            "neigh", "replace", f"{self._wires[wire]}.2", "lladdr", _NOBODY, "dev", here, *_FOR_EVER
        )

    def lose_answers(self, wire: int) -> None:
        """Lose what is sent out of the namespace."""
        _, there = self._ends(wire)
        lost = ("lladdr", _NOBODY, "dev", there, *_FOR_EVER)
        self._inside("neigh", "replace", f"{self._wires[wire]}.1", *lost)

    def mend(self, wire: int) -> None:
        """Let everything pass again."""
        here, there = self._ends(wire)
        _ip("link", "set", here, "up")
        self._inside("link", "set", there, "up")
        # They are learned anew; there may be nothing to forget.
        _ip("neigh", "del", f"{self._wires[wire]}.2", "dev", here, must=False)
        _ip("-n", self._name, "neigh", "del", f"{self._wires[wire]}.1", "dev", there, must=False)

    def _ends(self, wire: int) -> tuple[str, str]:
        return f"lk{wire}a{self._unique}", f"lk{wire}b{self._unique}"

    def _inside(self, *words: str) -> None:
        _ip("-n", self._name, *words)


_FOR_EVER = ("nud", "permanent")


def _ip(*words: str, must: bool = True) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not must, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout
