"""A server on loopback that does exactly what a test says, and certificates for it."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from livekit_pool.servers import Server

KEY, SECRET = "key-scripted", "secret-of-the-scripted-server-0123456789"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    """An HTTP/1.1 response's bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(slots=True)
class Exchange:
    """One request that reached the server: its connection's number from 1, and its own on that."""

    connection: int
    number: int
    head: str
    body: bytes


@dataclass(slots=True)
class Scripted:
    """
    A running one.

    Attributes:
        server: the same, as a pool's configuration holds it.
        seen: all requests, in the order of their arrival.
    """

    server: Server
    seen: list[Exchange] = field(default_factory=list)
    connections: int = 0


# Returns the bytes to send, or None to close the connection.
Script = Callable[[Exchange], Awaitable[bytes | None]]


def always(answer: bytes | None) -> Script:
    """A script that answers everything in the same way."""

    async def script(_: Exchange) -> bytes | None:
        return answer

    return script


async def never(_: Exchange) -> bytes | None:
    """A script that answers nothing and keeps the connection."""
    await asyncio.Event().wait()
    return None


@asynccontextmanager
async def scripted(
    script: Script, *, tls: ssl.SSLContext | None = None, name: str = "scripted"
) -> AsyncIterator[Scripted]:
    """Serve by ``script`` on a free port of 127.0.0.1."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        running.connections += 1
        connection, number = running.connections, 0
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                number += 1
                length = 0
                for line in head.lower().split("\r\n"):
                    if line.startswith("content-length:"):
                        length = int(line.split(":")[1])
                exchange = Exchange(connection, number, head, await reader.readexactly(length))
                running.seen.append(exchange)
                answer = await script(exchange)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has gone
        except asyncio.CancelledError:
            pass  # the test is over; asyncio.start_server would log it
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    scheme = "wss" if tls else "ws"
    running = Scripted(
        Server(name=name, url=f"{scheme}://127.0.0.1:{port}", key=KEY, secret=SECRET)
    )
    try:
        yield running
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---- certificates -----------------------------------------------------------------------------

_CA_CONFIG = """
[ca]
default_ca = it
[it]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
[any]
commonName = supplied
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that signed itself, and its key, both PEM files."""

    path: Path
    key: Path

    def serving(self) -> ssl.SSLContext:
        """A context for the server that has it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context

    def trusting(self) -> ssl.SSLContext:
        """A context for a client that trusts nobody else."""
        return ssl.create_default_context(cafile=self.path)


def make_certificate(
    folder: Path, *, names: str = "IP:127.0.0.1", start: str = "20200101", end: str = "20990101"
) -> Certificate:
    """Make one that is valid for ``names`` from ``start`` to ``end`` (YYYYMMDD)."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing: Debian's package has that name"  # git, pip bring it along
    folder.mkdir()
    config, request = folder / "ca.cnf", folder / "request.pem"
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    extensions = folder / "extensions.cnf"
    config.write_text(_CA_CONFIG.format(folder=folder))
    extensions.write_text(f"subjectAltName={names}\nbasicConstraints=critical,CA:TRUE\n")
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    new += ["-subj", "/CN=scripted", "-keyout", made.key, "-out", request]  # type: ignore[list-item]
    sign = ["ca", "-batch", "-selfsign", "-notext", "-config", config, "-keyfile", made.key]
    sign += ["-in", request, "-out", made.path, "-extfile", extensions]
    sign += ["-startdate", f"{start}000000Z", "-enddate", f"{end}000000Z"]
    for arguments in (new, sign):
        subprocess.run([openssl, *arguments], check=True, capture_output=True, timeout=30)
    return made
