"""The short way to read an upgrade's head, and that it reads what the parser would."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_pool.web.upgrade import Head, plain_head

PLAIN = (
    b"GET /rtc/v1?join_request=CAE%3D&x=1 HTTP/1.1\r\n"
    b"Host: pool:7880\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Upgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"sec-websocket-key:   dGhlIHNhbXBsZSBub25jZQ==\t\r\n"
    b"X-Name: J\xc3\xbcrgen\r\n"
    b"X-Empty:\r\n"
    b"\r\n"
)


def test_a_plain_head_is_read() -> None:
    assert plain_head(PLAIN) == Head(
        b"GET",
        b"/rtc/v1?join_request=CAE%3D&x=1",
        [
            (b"host", b"pool:7880"),
            (b"connection", b"keep-alive, Upgrade"),
            (b"upgrade", b"WebSocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            (b"x-name", b"J\xc3\xbcrgen"),
            (b"x-empty", b""),
        ],
    )


NOT_PLAIN = {
    "another method": (b"GET ", b"POST "),
    "a method in lower case": (b"GET ", b"get "),
    "no path": (b"GET /rtc", b"GET rtc"),
    "an absolute target": (b"GET /rtc", b"GET http://pool/rtc"),
    "no target": (b" /rtc/v1?join_request=CAE%3D&x=1 ", b" "),
    "a space in the target": (b"&x=1", b"& x=1"),
    "a tab in the target": (b"&x=1", b"&\tx=1"),
    "a target that is not ASCII": (b"&x=1", b"&x=\xff"),
    "an older version": (b"HTTP/1.1", b"HTTP/1.0"),
    "no version": (b" HTTP/1.1", b""),
    "more behind it": (b"X-Empty:\r\n\r\n", b"X-Empty:\r\n\r\nfr"),
    "another request behind it": (b"X-Empty:\r\n\r\n", b"X-Empty:\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
    "no end": (b"X-Empty:\r\n\r\n", b"X-Empty:\r\n"),
    "a line that ends with LF": (b"pool:7880\r\n", b"pool:7880\n"),
    "a line that ends with CR": (b"pool:7880\r\n", b"pool:7880\r"),
    "a LF in a value": (b"X-Empty:", b"X-Empty: a\nb"),
    "a CR in a value": (b"X-Empty:", b"X-Empty: a\rb"),
    "a NUL in a value": (b"X-Empty:", b"X-Empty: \x00"),
    "a NUL in the target": (b"&x=1", b"&x=\x00"),
    "a value that goes on": (b"X-Empty:", b" more\r\nX-Empty:"),
    "no name": (b"X-Empty:", b":"),
    "a space before the colon": (b"X-Empty:", b"X-Empty :"),
    "a name that is none": (b"X-Empty:", b"X(Empty):"),
    "no colon": (b"X-Empty:", b"X-Empty"),
    "a body": (b"X-Empty:", b"Content-Length: 5"),
    "no body, said so": (b"X-Empty:", b"content-length: 0"),
    "a body in chunks": (b"X-Empty:", b"Transfer-Encoding: chunked"),
    "an expectation": (b"X-Empty:", b"Expect: 100-continue"),
    "no upgrade": (b"Upgrade: WebSocket\r\n", b""),
    "another upgrade": (b"Upgrade: WebSocket", b"Upgrade: h2c"),
    "two upgrades": (b"X-Empty:", b"Upgrade: websocket"),
    "an upgrade to several": (b"Upgrade: WebSocket", b"Upgrade: websocket, h2c"),
    "no connection": (b"Connection: keep-alive, Upgrade\r\n", b""),
    "a connection that stays": (b"keep-alive, Upgrade", b"keep-alive"),
    "two connections": (b"X-Empty:", b"Connection: Upgrade"),
    "a connection that closes": (b"X-Empty:", b"Connection: close"),
}


@pytest.mark.parametrize(("good", "bad"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_to_the_parser(good: bytes, bad: bytes) -> None:
    assert good in PLAIN
    assert plain_head(PLAIN.replace(good, bad, 1)) is None


@pytest.mark.parametrize("size", range(len(PLAIN)))
def test_a_part_of_a_head_is_none(size: int) -> None:
    assert plain_head(PLAIN[:size]) is None


class Parsed:
    """What uvicorn's parser makes of a head."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.upgrades = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.upgrades = True
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def text(alphabet: str, most: int = 6) -> st.SearchStrategy[bytes]:
    return st.text(alphabet, max_size=most).map(lambda value: value.encode("latin-1"))


LINES = st.one_of(
    st.sampled_from(
        [
            b"Connection: Upgrade",
            b"connection:upgrade , keep-alive",
            b"Upgrade: websocket",
            b"Content-Length: 0",
        ]
    ),
    st.tuples(text("aX-_: (\t"), text(": ,\ta\xe9\x7f\x00\r\n")).map(b":".join),
)


@given(
    text('/?#%a &"<>\xe9\x00', 8),
    st.lists(LINES, max_size=5),
)
def test_what_is_plain_is_read_as_the_parser_reads_it(target: bytes, lines: list[bytes]) -> None:
    always = [b"Connection: Upgrade", b"Upgrade: websocket"]
    data = b"\r\n".join([b"GET /" + target + b" HTTP/1.1", *always, *lines, b"", b""])
    head = plain_head(data)
    if head is None:
        return
    parsed = Parsed(data)
    assert parsed.upgrades
    assert (parsed.method, parsed.target) == (head.method, head.target)
    assert parsed.fields == head.fields
