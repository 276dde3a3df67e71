"""Server and the checks on a list of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_pool.exceptions import ConfigurationError
from livekit_pool.servers import MAX_NAME, Origin, Server, checked, fingerprint

SECRET = "do-not-show-me-anywhere"


def server(url: str = "wss://one.example", name: str = "", **changes: object) -> Server:
    made = Server(name=name, url=url, key="APIone", secret=SECRET)
    return replace(made, **changes)  # type: ignore[arg-type]  # field names come from the test


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "header", "http", "ws"),
    [
        ("wss://One.example", "one.example", 443, True, "one.example", "https://one.example", None),
        ("ws://one.example/", "one.example", 80, False, "one.example", "http://one.example", None),
        ("https://one.example:443", "one.example", 443, True, "one.example", None, None),
        ("http://10.0.0.1:7880/", "10.0.0.1", 7880, False, "10.0.0.1:7880", None, None),
        ("WS://[::1]:7880", "::1", 7880, False, "[::1]:7880", "http://[::1]:7880", None),
        ("wss://[2001:db8::1]", "2001:db8::1", 443, True, "[2001:db8::1]", None, None),
        ("ws://live_kit:80", "live_kit", 80, False, "live_kit", None, "ws://live_kit"),
    ],
)
def test_url_is_taken_apart(
    url: str, host: str, port: int, secure: bool, header: str, http: str | None, ws: str | None
) -> None:
    one = server(url)

    assert (one.host, one.port, one.secure, one.host_header) == (host, port, secure, header)
    assert one.http_url == (http or f"http{'s' * secure}://{header}")
    assert one.ws_url == (ws or f"ws{'s' * secure}://{header}")
    assert Origin.parse(one.ws_url) == Origin.parse(one.http_url) == one.origin


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must start with"),
        ("one.example", "must start with"),
        ("one.example:7880", "must start with"),
        ("ftp://one.example", "must start with"),
        ("wss:one.example", "must start with"),
        ("javascript://one.example", "must start with"),
        ("wss://", "valid host name"),
        ("wss:///", "valid host name"),
        ("wss://:7880", "valid host name"),
        ("wss://-one.example", "valid host name"),
        ("wss://one..example", "valid host name"),
        ("wss://müller.example", "valid host name"),
        ("wss://" + "a" * 256, "valid host name"),
        ("wss://[one.example]", "valid host"),
        ("wss://[::1", "valid host"),
        ("wss://one.example:0", "port from 1 to 65535"),
        ("wss://one.example:65536", "port from 1 to 65535"),
        ("wss://one.example:http", "port from 1 to 65535"),
        (f"wss://user:{SECRET}@one.example", "user name or password"),
        ("wss://user@one.example", "user name or password"),
        ("wss://@one.example", "user name or password"),
        (f"wss://one.example?token={SECRET}", "query or a fragment"),
        ("wss://one.example/?", "query or a fragment"),
        ("wss://one.example#top", "query or a fragment"),
        ("wss://one.example/rtc", "must not have a path"),
        ("wss://one.example//", "must not have a path"),
        ("wss://one.example/;x", "must not have a path"),
        ("wss://one .example", "spaces or control"),
        ("wss://one.example\n", "spaces or control"),
        ("wss://one.example\x00", "spaces or control"),
        ("wss://one\u00a0.example", "spaces or control"),
    ],
)
def test_wrong_url_names_the_setting_and_quotes_nothing(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checked([server(), server(url)], labels=[{}, {"url": "LIVEKIT_SERVERS_1_URL"}])

    message = str(caught.value)
    assert message.startswith("LIVEKIT_SERVERS_1_URL must ")
    assert says in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("key", "", "API key"),
        ("key", "two words", "API key"),
        ("key", "line\n", "API key"),
        ("secret", "", "API secret"),
        ("secret", f"{SECRET} ", "API secret"),
        ("secret", f"{SECRET}\n", "API secret"),
        ("secret", f"{SECRET}\udcff", "API secret"),
        ("name", "two words", "spaces"),
        ("name", "tab\t", "spaces"),
        ("name", "bell\x07", "spaces"),
        ("name", "a/b", "slash"),
        ("name", "..", "a dot or two"),
        ("name", "n" * (MAX_NAME + 1), "at most 255"),
        ("weight", 0.0, "greater than 0"),
        ("weight", float("nan"), "greater than 0"),
        ("weight", float("inf"), "greater than 0"),
        ("minutes", 0.0, "greater than 0"),
        ("max_participants", 0, "at least 1"),
    ],
)
def test_wrong_field_names_the_setting_and_quotes_nothing(
    field: str, value: object, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checked([server(**{field: value})])  # type: ignore[arg-type]  # wrong on purpose

    message = str(caught.value)
    assert message.startswith(f"servers[0].{field} must ")
    assert says in message
    assert SECRET not in message


def test_empty_list_is_refused_and_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="LIVEKIT_SERVERS_0_URL"):
        checked([])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("wss://one.example", "wss://one.example:443/"),
        ("ws://one.example:443", "https://ONE.example"),
        ("ws://one.example:7880", "http://one.example.:7880"),
    ],
)
def test_one_server_twice_is_refused(first: str, second: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checked(
            [server(first, "a"), server("ws://two.example"), server(second, "b")],
            labels=[{"url": "LIVEKIT_SERVERS_0_URL"}, {}, {"url": "LIVEKIT_SERVERS_7_URL"}],
        )

    assert str(caught.value).startswith(
        "LIVEKIT_SERVERS_0_URL and LIVEKIT_SERVERS_7_URL are the same server ("
    )


@pytest.mark.parametrize(("first", "second"), [("red", "red"), ("red", "RED")])
def test_one_name_twice_is_refused(first: str, second: str) -> None:
    with pytest.raises(ConfigurationError, match=r"servers\[0\].name and servers\[1\].name are"):
        checked([server("ws://a:1", first), server("ws://a:2", second)])


def test_default_name_is_the_host_or_with_port_where_that_is_not_unique() -> None:
    named = checked(
        [
            server("wss://Alone.example"),
            server("ws://shared.example:7880"),
            server("wss://shared.example"),
            server("ws://[::1]:7880"),
            server("ws://other.example", name="host.example"),
            server("ws://host.example"),
            server("ws://kept.example", name="red"),
        ]
    )

    assert [each.name for each in named] == [
        "alone.example",
        "shared.example:7880",
        "shared.example:443",
        "::1",
        "host.example",
        "host.example:80",
        "red",
    ]


def test_default_name_that_somebody_chose_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"are both one.example:80: "):
        checked(
            [
                server("ws://x.example", "one.example:80"),
                server("ws://y.example", "one.example"),
                server("ws://one.example"),
            ]
        )


def test_checked_changes_nothing_else() -> None:
    listed = [server("ws://a:1", "red"), server("ws://a:2", "green", weight=2.0, minutes=60.0)]

    assert checked(iter(listed)) == tuple(listed)


def test_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(checked([server()]))


HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,10}(\.[a-z]{1,5})?", fullmatch=True)


@given(st.lists(st.tuples(HOSTS, st.integers(1, 65535)), min_size=1, max_size=8, unique=True))
def test_default_names_are_unique_and_stay_on_a_second_check(
    addresses: list[tuple[str, int]],
) -> None:
    named = checked([server(f"ws://{host}:{port}") for host, port in addresses])

    assert len({each.name for each in named}) == len(addresses)
    assert checked(named) == named


def test_fingerprint_is_of_everything_but_the_secrets() -> None:
    one, two = server("ws://a:1", "red"), server("ws://a:2", "green")
    known = fingerprint([one, two])

    assert known == fingerprint([replace(one, url="http://A:1/", secret="another"), two])
    assert known == fingerprint([replace(one, minutes=None), replace(two, weight=1)])
    others = [
        [two, one],
        [one],
        [replace(one, name="blue"), two],
        [replace(one, url="ws://a:3"), two],
        [replace(one, url="wss://a:1"), two],
        [replace(one, key="APItwo"), two],
        [replace(one, weight=2.0), two],
        [replace(one, minutes=5.0), two],
        [replace(one, max_participants=5), two],
    ]
    assert len({known, *map(fingerprint, others)}) == len(others) + 1


def test_fingerprint_is_the_same_in_every_process() -> None:
    # Processes of different versions compare them, so a change of the form is a change of contract.
    assert fingerprint([server("ws://a:1", "red")]) == "1b11f29bbb22aa4c40e76b0f762b69f0"
