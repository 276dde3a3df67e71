"""A DNS server of the test's, as slow, dead or confused as it is told to be."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from typing import Self, cast

# RFC 1035, sections 4.1.1 and 3.2.2.
_SERVFAIL, _NXDOMAIN = 2, 3
_A = 1


class DnsServer(asyncio.DatagramProtocol):
    """
    Answers questions for addresses at port 53; an asynchronous context manager.

    Attributes:
        names: what it knows: name -> IPv4 address.
        delay: seconds before it answers; None: it never does.
        confused: it says of every name that there is none. failing: it answers SERVFAIL.
        asked: how many questions came.
    """

    def __init__(self, address: str, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self.delay: float | None = 0.0
        self.confused = self.failing = False
        self.asked = 0
        self._address = address
        self._transport: asyncio.DatagramTransport

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(self._address, 53))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if self.delay is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay, self._answer, data, addr)

    def _answer(self, question: bytes, where: tuple[str, int]) -> None:
        if self._transport.is_closing():
            return
        end, labels = 12, []
        while size := question[end]:
            labels.append(question[end + 1 : end + 1 + size].decode())
            end += 1 + size
        kind = struct.unpack("!H", question[end + 1 : end + 3])[0]
        address = None if self.confused else self.names.get(".".join(labels).lower())
        code = _SERVFAIL if self.failing else 0 if address else _NXDOMAIN
        found = address is not None and kind == _A and code == 0
        head = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, int(found), 0, 0)
        answer = b""
        if found and address is not None:
            answer = struct.pack("!HHHIH", 0xC00C, _A, 1, 1, 4) + socket.inet_aton(address)
        self._transport.sendto(head + question[12 : end + 5] + answer, where)
