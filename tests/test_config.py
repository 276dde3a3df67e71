"""Settings from flags, environment, .env files and YAML, and the pool's own key pair."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from livekit_pool.config import (
    SETTINGS,
    Settings,
    debugging,
    ensure_key_pair,
    find_key_pair,
    load,
)
from livekit_pool.exceptions import ConfigurationError
from livekit_pool.servers import Server

SECRET = "do-not-show-me-anywhere-at-all-please"
PAIR = {"LIVEKIT_POOL_KEY": "APIpool", "LIVEKIT_POOL_SECRET": SECRET}


def slot(position: int = 0, **changes: str) -> dict[str, str]:
    """Return the variables of one server."""
    values = {"URL": f"wss://s{position}.example", "KEY": f"APIs{position}", "SECRET": SECRET}
    return {f"LIVEKIT_SERVERS_{position}_{k}": v for k, v in {**values, **changes}.items() if v}


def env_text(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def names(settings: Settings) -> list[str]:
    return [server.name for server in settings.servers]


class Place:
    """A working directory to load in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (self.path / name).write_bytes(data)
        return Path(name)

    def load(self, env: Mapping[str, str] | None = None, **options: object) -> Settings:
        return load(env=slot() if env is None else env, cwd=self.path, **options)  # type: ignore[arg-type]  # passed on

    def refused(self, env: Mapping[str, str] | None = None, **options: object) -> str:
        """Load, and return the one sentence of the refusal."""
        with pytest.raises(ConfigurationError) as caught:
            self.load(env, **options)
        message = str(caught.value)
        assert message.endswith(".")
        assert "\n" not in message
        assert SECRET not in message
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- the table ---


def test_every_field_is_described_once() -> None:
    besides = {"servers", "key_origin", "directory", "warnings"}

    described = [setting.field for setting in SETTINGS]
    assert sorted(described) == sorted({each.name for each in fields(Settings)} - besides)
    for setting in SETTINGS:
        assert setting.doc.endswith(".")
        assert setting.metavar


def test_one_rule_for_the_three_names() -> None:
    known = {setting.field: setting for setting in SETTINGS}

    rooms = known["probe_rooms_interval"]
    assert rooms.name == "probe.rooms_interval"
    assert rooms.variable == "LIVEKIT_POOL_PROBE_ROOMS_INTERVAL"
    assert rooms.flag == "--probe-rooms-interval"
    assert (known["tls_cert"].flag, known["pool_url"].flag) == ("--tls-cert", "--url")
    assert known["pool_url"].variable == "LIVEKIT_POOL_URL"
    assert known["secret"].flag is None
    for names in (
        [setting.name for setting in SETTINGS],
        [setting.variable for setting in SETTINGS],
        [setting.flag for setting in SETTINGS],
    ):
        assert len(set(names)) == len(names)


def test_defaults_are_the_designs(place: Place) -> None:
    settings = place.load()

    assert settings == Settings(
        servers=(Server(name="s0.example", url="wss://s0.example", key="APIs0", secret=SECRET),),
        directory=place.path,
    )
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 7870, 2)
    assert settings.store == "sqlite:///livekit-pool.db"
    assert (settings.probe_interval, settings.probe_timeout) == (1.0, 0.8)
    assert (settings.probe_rooms_interval, settings.rise, settings.fall) == (15.0, 2, 3)
    assert (settings.cool_down_first, settings.cool_down_max) == (5.0, 300.0)
    assert (settings.rotation_interval, settings.pace, settings.join_timeout) == (10.0, 200.0, 4.5)
    assert (settings.route, settings.key_origin, settings.warnings) == ("gateway", None, ())


VALUES: dict[str, tuple[str, object]] = {
    "pool_url": ("wss://pool.example", "wss://pool.example"),
    "key": ("APIother", "APIother"),
    "secret": (SECRET, SECRET),
    "store": ("sqlite:////var/pool.db", "sqlite:////var/pool.db"),
    "host": ("[::1]", "::1"),
    "port": ("8080", 8080),
    "workers": ("4", 4),
    "machine": ("rack 4", "rack 4"),
    "tls_cert": ("cert.pem", Path("cert.pem")),
    "tls_key": ("key.pem", Path("key.pem")),
    "route": ("Gateway", "gateway"),
    "trusted_proxies": ("10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    "probe_interval": ("0.5", 0.5),
    "probe_timeout": ("2", 2.0),
    "probe_rooms_interval": ("60", 60.0),
    "rise": ("1", 1),
    "fall": ("5", 5),
    "cool_down_first": ("1", 1.0),
    "cool_down_limit_first": ("20", 20.0),
    "minutes_share": ("0.9", 0.9),
    "cool_down_max": ("60", 60.0),
    "rotation_interval": ("1", 1.0),
    "pace": ("50", 50.0),
    "join_timeout": ("3", 3.0),
    "webhook_urls": (
        "https://app.example/hook?key=1, http://[::1]:9000",
        ("https://app.example/hook?key=1", "http://[::1]:9000"),
    ),
    "log_level": ("DEBUG", "debug"),
}


def with_partners(field: str) -> dict[str, str]:
    """Return the settings that must be set for ``field`` to be, by variable."""
    pairs = {"key": ["secret"], "secret": ["key"], "tls_cert": ["tls_key"], "tls_key": ["tls_cert"]}
    variables = {setting.field: setting.variable for setting in SETTINGS}
    return {variables[each]: VALUES[each][0] for each in pairs.get(field, [])}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.field)
@pytest.mark.parametrize("source", ["environment", "env_file", "yaml", "override"])
def test_every_setting_can_be_set_everywhere(place: Place, setting: object, source: str) -> None:
    (found,) = [each for each in SETTINGS if each is setting]
    given, expected = VALUES[found.field]
    env = {**slot(), **with_partners(found.field)}
    overrides: dict[str, object] = {}
    config_file: Path | None = None
    if source == "environment":
        env[found.variable] = given
    elif source == "env_file":
        place.file(".env", f"{found.variable}={given}\n")
    elif source == "override":
        overrides[found.field] = given
    else:
        *groups, last = found.name.split(".")
        lines = [f"{'  ' * level}{group}:" for level, group in enumerate(groups)]
        text = "\n".join([*lines, f"{'  ' * len(groups)}{last}: '{given}'\n"])
        config_file = place.file("pool.yaml", text)

    settings = place.load(env, overrides=overrides, config_file=config_file)
    assert getattr(settings, found.field) == expected
    assert settings.warnings == ()


def test_explicit_beats_file_beats_default(place: Place) -> None:
    config = place.file("pool.yaml", "port: 5\n")
    port = {"LIVEKIT_POOL_PORT": "2"}

    assert place.load(config_file=config).port == 5
    place.file(".env", "LIVEKIT_POOL_PORT=4\n")
    assert place.load(config_file=config).port == 4
    place.file(".env.local", "LIVEKIT_POOL_PORT=3\n")
    assert place.load(config_file=config).port == 3
    assert place.load({**slot(), **port}, config_file=config).port == 2
    flags = {"port": 1, "host": None}
    assert place.load({**slot(), **port}, config_file=config, overrides=flags).port == 1


def test_a_named_env_file_is_read_instead_of_the_others(place: Place) -> None:
    place.file(".env", "LIVEKIT_POOL_PORT=4\nLIVEKIT_POOL_WORKERS=4\n")
    place.file(".env.local", "LIVEKIT_POOL_PORT=3\n")
    named = place.file("named", "LIVEKIT_POOL_PORT=2\n")

    settings = place.load(env_file=named)
    assert (settings.port, settings.workers) == (2, 2)


def test_an_empty_variable_counts_as_not_set(place: Place) -> None:
    place.file(".env", "LIVEKIT_POOL_PORT=4\nLIVEKIT_POOL_HOST=\n")

    settings = place.load({**slot(), "LIVEKIT_POOL_PORT": "", "LIVEKIT_POOL_URL": " "})
    assert (settings.port, settings.host, settings.pool_url) == (4, "127.0.0.1", None)


def test_the_process_environment_is_the_default_and_is_not_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.path)
    for name in [name for name in os.environ if name.startswith("LIVEKIT_")]:
        monkeypatch.delenv(name)
    for name, value in slot().items():
        monkeypatch.setenv(name, value)
    place.file(".env", "LIVEKIT_POOL_PORT=4\n")

    assert load().port == 4
    assert load().directory == place.path
    assert "LIVEKIT_POOL_PORT" not in os.environ


def test_an_unknown_override_is_a_mistake_of_the_program(place: Place) -> None:
    with pytest.raises(TypeError, match="prot"):
        place.load(overrides={"prot": 1})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "-1", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "7" * 5000, "a whole number from 0 to 65535"),
        ("PORT", "٧٨٧٠", "a whole number from 0 to 65535"),
        ("WORKERS", "0", "a whole number from 1 to 64"),
        ("WORKERS", "2.5", "a whole number from 1 to 64"),
        ("HOST", "my host", "an address or a host name"),
        ("HOST", "127.0.0.1:7870", "an address or a host name"),
        ("URL", "pool.example", "start with ws://"),
        ("URL", f"wss://x:{SECRET}@pool.example", "user name or password"),
        ("URL", "wss://pool.example/path", "must not have a path"),
        ("STORE", "livekit-pool.db", "a store's URL"),
        ("ROUTE", "fast", "one of gateway, direct"),
        ("ROUTE", "direct", "not there yet"),
        ("LOG_LEVEL", "loud", "one of debug, info"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy", "networks such as"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "networks such as"),
        ("WEBHOOK_URLS", "app.example/hook", "only URLs that start with http"),
        ("WEBHOOK_URLS", "wss://app.example", "only URLs that start with http"),
        ("WEBHOOK_URLS", "https://app.example,", "one line of text"),
        ("WEBHOOK_URLS", f"https://x:{SECRET}@app.example/hook", "user name or password"),
        ("WEBHOOK_URLS", "https://app.example/a hook", "spaces or fragments"),
        ("WEBHOOK_URLS", "https://app.example/#hook", "spaces or fragments"),
        ("WEBHOOK_URLS", "https:///hook", "valid host and port"),
        ("WEBHOOK_URLS", "https://app.example:https/hook", "valid host and port"),
        ("WEBHOOK_URLS", "https://[::1/hook", "valid host and port"),
        ("WEBHOOK_URLS", "http://app.example,http://app.example", "a URL twice"),
        ("WEBHOOK_URLS", "http://127.0.0.1:7870/pool/webhook", "the pool's own /pool/webhook"),
        ("PROBE_INTERVAL", "0", "seconds, greater than 0"),
        ("PROBE_INTERVAL", "1s", "seconds, greater than 0"),
        ("PROBE_TIMEOUT", "nan", "seconds, greater than 0"),
        ("PROBE_TIMEOUT", "inf", "seconds, greater than 0"),
        ("PACE", "-5", "participants a second, greater than 0"),
        ("RISE", "0", "a whole number from 1 to 100"),
        ("COOL_DOWN_MAX", "4", "must not be less than LIVEKIT_POOL_COOL_DOWN_FIRST"),
        ("COOL_DOWN_MAX", "86401", "nor more than 86400 seconds"),
        ("KEY", "two\nlines", "one line of text"),
        ("TLS_CERT", "cert.pem", "LIVEKIT_POOL_TLS_KEY is missing"),
        ("TLS_KEY", "key.pem", "LIVEKIT_POOL_TLS_CERT is missing"),
    ],
)
def test_a_wrong_value_names_its_setting(place: Place, name: str, value: str, says: str) -> None:
    message = place.refused({**slot(), f"LIVEKIT_POOL_{name}": value})

    assert message.startswith(f"LIVEKIT_POOL_{name} ")
    assert says in message


def test_a_wrong_value_names_where_it_stands(place: Place) -> None:
    config = place.file("pool.yaml", "probe: {interval: often}\n")
    assert place.refused(config_file=config).startswith("probe.interval in pool.yaml must ")

    place.file(".env.local", "LIVEKIT_POOL_PROBE_INTERVAL=often\n")
    assert place.refused().startswith("LIVEKIT_POOL_PROBE_INTERVAL in .env.local must ")
    assert place.refused(overrides={"port": "x"}).startswith("--port must ")


def test_unknown_pool_variables_are_warned_of(place: Place) -> None:
    place.file(".env", "LIVEKIT_POOL_SOMETHING_ELSE=1\n")
    settings = place.load({**slot(), "LIVEKIT_POOL_PROT": "1"})

    assert settings.warnings == (
        "LIVEKIT_POOL_PROT is not used (did you mean LIVEKIT_POOL_PORT?).",
        "LIVEKIT_POOL_SOMETHING_ELSE in .env is not used.",
    )


@pytest.mark.parametrize(("value", "on"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_debugging_is_switched_by_a_variable_that_is_no_setting(
    place: Place, value: str | None, on: bool
) -> None:
    env = {**slot(), **({} if value is None else {"LIVEKIT_POOL_DEBUG": value})}

    assert debugging(env) is on
    assert place.load(env).warnings == ()


# --- .env files ---


def test_env_files_have_comments_quotes_and_exports(place: Place) -> None:
    place.file(
        ".env",
        "\ufeff# comment\n\nexport LIVEKIT_POOL_PORT=1 # port\nOTHER='two\nlines'\n"
        f'LIVEKIT_POOL_KEY="APIpool"\r\nLIVEKIT_POOL_SECRET={SECRET}${{HOME}}\n',
    )

    settings = place.load()
    assert (settings.port, settings.key) == (1, "APIpool")
    assert settings.secret == f"{SECRET}${{HOME}}"
    assert settings.key_origin == "LIVEKIT_POOL_KEY in .env"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f"A=1\n\n\n{SECRET}\nB=2\n", 4),
        (f"{SECRET}\n", 1),
        (f"A=1\nB='{SECRET}\n", 2),
        (f"A=1\n=x{SECRET}\n", 2),
        (f"A=1\n<<<<<<< {SECRET}\n", 2),
        (f"A='1' {SECRET}\n", 1),
        (b"A=1\nB=2\nC=\xff\xfe\n", 3),
    ],
)
@pytest.mark.parametrize("name", [".env", ".env.local", "named"])
def test_a_bad_line_names_file_and_line(
    place: Place, name: str, content: str | bytes, line: int
) -> None:
    file = place.file(name, content)
    message = place.refused(env_file=file if name == "named" else None)

    assert f"{name}, line {line}, is not " in message


@contextmanager
def nobody() -> Iterator[None]:
    """Act without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", [".env", ".env.local", "named", "pool.yaml"])
def test_a_file_without_permission_is_named(place: Place, name: str) -> None:
    file = place.file(name, "")
    (place.path / name).chmod(0)

    with nobody():
        message = place.refused(
            env_file=file if name == "named" else None,
            config_file=file if name == "pool.yaml" else None,
        )
    assert f"{place.path}/{name}" in message or f"{place.path}/.env" in message
    assert "cannot be read (Permission denied)" in message


def test_a_link_that_leads_nowhere_readable_is_named(place: Place) -> None:
    (place.path / ".env").symlink_to(".env")

    assert ".env cannot be read (" in place.refused()


def test_files_that_were_named_must_be_there(place: Place) -> None:
    assert "missing.env is not a file" in place.refused(env_file=Path("missing.env"))
    assert "missing.yaml is not a file" in place.refused(config_file=Path("missing.yaml"))
    assert "is not a file" in place.refused(env_file=place.path)


def test_a_directory_called_env_is_no_env_file(place: Place) -> None:
    (place.path / ".env").mkdir()

    assert names(place.load()) == ["s0.example"]


# --- YAML ---


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"port: [1\n# {SECRET}\n", "pool.yaml, line "),
        (f"a: 1\n\t{SECRET}: 1\n", "pool.yaml, line 2"),
        (f"!!python/object/apply:os.system ['{SECRET}']\n", "pool.yaml, line 1"),
        (b"port: \xff\n", "line 1, is not UTF-8"),
        (b"port: \x00\n", "is not YAML"),
        ("port: 2001-99-99\n", "is not YAML"),
        ("[" * 20000, "is not YAML"),
        ("- port\n", "must hold settings"),
        ("7: 8\n", "must hold settings"),
        (SECRET, "must hold settings"),
        ("prot: 1\n", "did you mean 'port'?"),
        ("server: []\n", "did you mean 'servers'?"),
        (f"{SECRET}: 1\n", "unknown name: known are url, key"),
        ("probe: {intervall: 1}\n", "probe in pool.yaml has an unknown name, 'intervall' (did you"),
        ("probe: 1\n", "probe in pool.yaml must have"),
        ("port: true\n", "port in pool.yaml must be a whole number"),
        ("port: [1]\n", "port in pool.yaml must be a whole number"),
        ("pace: true\n", "pace in pool.yaml must be a number"),
        ("host: 1\n", "host in pool.yaml must be"),
        ("key: 1234\n", "key in pool.yaml must be a text: put it in quotes"),
        ("trusted_proxies: 10\n", "trusted_proxies in pool.yaml must be networks"),
        ("trusted_proxies: [10]\n", "trusted_proxies in pool.yaml must be networks"),
        ("webhook: {urls: 10}\n", "webhook.urls in pool.yaml must be URLs"),
        ("webhook: {urls: [10]}\n", "webhook.urls in pool.yaml must be a text"),
        ("servers: red\n", "servers in pool.yaml must be a list"),
        ("servers: [red]\n", "servers[0] in pool.yaml must have"),
        ("servers: [{ulr: x}]\n", "servers[0] in pool.yaml has an unknown name, 'ulr' (did you"),
        ("servers: [{1: x}]\n", "servers[0] in pool.yaml has an unknown name"),
        ("servers: [{key: 5}]\n", "servers[0].url (or LIVEKIT_SERVERS_0_URL) and"),
    ],
)
def test_bad_yaml_is_refused_in_one_sentence(place: Place, content: str | bytes, says: str) -> None:
    message = place.refused({}, config_file=place.file("pool.yaml", content))

    assert says in message


def test_yaml_reads_all_kinds_of_values(place: Place) -> None:
    config = place.file(
        "pool.yaml",
        "url: wss://pool.example\nport: 1\npace: 50\nprobe:\n  interval: 0.5\n  timeout:\n"
        "join.timeout: 2\ntls:\ntrusted_proxies: [10.0.0.0/8]\nstore: ''\n"
        "webhook:\n  urls: ['https://app.example/a,b']\n",
    )

    settings = place.load(config_file=config)
    assert (settings.pool_url, settings.port, settings.pace) == ("wss://pool.example", 1, 50.0)
    assert (settings.probe_interval, settings.probe_timeout) == (0.5, 0.8)
    assert settings.join_timeout == 2.0  # levels may be written in one name too
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert settings.webhook_urls == ("https://app.example/a,b",)
    assert settings.store == "sqlite:///livekit-pool.db"


def test_an_empty_yaml_file_sets_nothing(place: Place) -> None:
    assert place.load(config_file=place.file("pool.yaml", "# nothing yet\n")) == place.load()


# --- the servers ---


def test_twenty_servers_from_the_environment_in_order(place: Place) -> None:
    env = {name: value for n in range(20) for name, value in slot(n).items()}

    assert names(place.load(env)) == [f"s{n}.example" for n in range(20)]
    assert place.load(env).warnings == ()


def test_twenty_one_in_the_environment_are_refused(place: Place) -> None:
    env = {name: value for n in range(21) for name, value in slot(n).items()}
    message = place.refused(env)

    assert message.startswith("LIVEKIT_SERVERS_20_")
    assert "at most 20" in message
    assert "--config" in message


def test_gaps_are_allowed_and_reported(place: Place) -> None:
    settings = place.load({**slot(1), **slot(4)})

    assert names(settings) == ["s1.example", "s4.example"]
    assert settings.warnings == (
        "No server at LIVEKIT_SERVERS_0, 2, 3: the others keep their order.",
    )


def test_optional_fields_of_a_server(place: Place) -> None:
    env = slot(0, NAME="red", WEIGHT="2", MINUTES="5000", MAX_PARTICIPANTS="100")
    (server,) = place.load(env).servers

    assert (server.name, server.weight, server.minutes) == ("red", 2.0, 5000.0)
    assert server.max_participants == 100


@pytest.mark.parametrize("gone", ["URL", "KEY", "SECRET"])
def test_half_a_server_names_what_is_missing(place: Place, gone: str) -> None:
    message = place.refused({**slot(0), **slot(3, **{gone: ""})})

    assert message.startswith(f"LIVEKIT_SERVERS_3_{gone} is missing beside LIVEKIT_SERVERS_3_")


def test_a_server_with_nothing_but_a_name_is_half_a_server(place: Place) -> None:
    message = place.refused({**slot(0), "LIVEKIT_SERVERS_1_NAME": "red"})

    assert message.startswith(
        "LIVEKIT_SERVERS_1_URL and LIVEKIT_SERVERS_1_KEY and LIVEKIT_SERVERS_1_SECRET are missing"
    )


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("URL", "ftp://one.example", "ws://, wss://, http:// or https://"),
        ("URL", f"wss://a:{SECRET}@one.example", "user name or password"),
        ("NAME", "two words", "spaces"),
        ("WEIGHT", "heavy", "greater than 0"),
        ("MINUTES", "0", "greater than 0"),
        ("MAX_PARTICIPANTS", "many", "whole number"),
    ],
)
def test_a_wrong_field_of_a_server_names_its_variable(
    place: Place, variable: str, value: str, says: str
) -> None:
    place.file(".env", f"LIVEKIT_SERVERS_2_{variable}={value}\n")
    here = {name: v for name, v in slot(2).items() if not name.endswith(f"_{variable}")}
    message = place.refused(here)

    assert message.startswith(f"LIVEKIT_SERVERS_2_{variable} in .env must ")
    assert says in message


def test_two_with_one_name_or_url_name_both_settings(place: Place) -> None:
    same_url = place.refused({**slot(0), **slot(2, URL="wss://S0.example:443/")})
    same_name = place.refused({**slot(0, NAME="red"), **slot(1, NAME="Red")})
    chosen = {**slot(1, NAME="s0.example:443"), **slot(2, NAME="s0.example")}
    by_default = place.refused({**slot(0), **chosen})

    assert same_url.startswith("LIVEKIT_SERVERS_0_URL and LIVEKIT_SERVERS_2_URL are the same")
    assert same_name.startswith("LIVEKIT_SERVERS_0_NAME and LIVEKIT_SERVERS_1_NAME are both")
    assert by_default.startswith("LIVEKIT_SERVERS_0_URL and LIVEKIT_SERVERS_1_NAME are both")


@pytest.mark.parametrize(
    "name",
    ["LIVEKIT_SERVERS_0_API_KEY", "LIVEKIT_SERVERS_00_URL", "LIVEKIT_SERVERS_URL",
     "LIVEKIT_SERVERS_ONE_URL", "LIVEKIT_SERVERS_-1_URL"],
)  # fmt: skip
def test_variables_that_name_no_field_are_warned_of(place: Place, name: str) -> None:
    settings = place.load({**slot(), name: "x"})

    assert len(settings.servers) == 1
    (warning,) = settings.warnings
    assert warning.startswith(f"{name} is not used: names are LIVEKIT_SERVERS_0_ to ")


def test_no_server_says_what_to_set(place: Place) -> None:
    message = place.refused({})

    assert message.startswith("There is no server: set LIVEKIT_SERVERS_0_URL, ")
    assert "LIVEKIT_URL" in message
    assert "no server" in place.refused({}, config_file=place.file("pool.yaml", "servers: []\n"))


def test_a_pool_of_one_from_livekits_own_variables(place: Place) -> None:
    one = {"LIVEKIT_URL": "wss://o.example", "LIVEKIT_API_KEY": "K", "LIVEKIT_API_SECRET": SECRET}
    (server,) = place.load(one).servers

    assert (server.name, server.key, server.secret) == ("o.example", "K", SECRET)
    assert names(place.load({**one, **slot(5)})) == ["s5.example"]
    config = place.file("pool.yaml", f"servers: [{{url: ws://y, key: K, secret: {SECRET}}}]\n")
    assert names(place.load(one, config_file=config)) == ["y"]
    for name in one:
        message = place.refused({key: value for key, value in one.items() if key != name})
        assert message.startswith(f"{name} is missing beside LIVEKIT_")


def test_one_server_from_environment_files_and_yaml_together(place: Place) -> None:
    config = place.file(
        "pool.yaml",
        "servers:\n- {name: red, url: ws://red, secret: overridden, minutes: 60}\n- {url: ws://two}\n",
    )
    place.file(".env", "LIVEKIT_SERVERS_0_KEY=APIfile\nLIVEKIT_SERVERS_1_KEY=APItwo\n")
    env = {"LIVEKIT_SERVERS_0_SECRET": SECRET, "LIVEKIT_SERVERS_1_SECRET": SECRET, **slot(2)}
    red, two, third = place.load(env, config_file=config).servers

    assert (red.name, red.url, red.key, red.secret) == ("red", "ws://red", "APIfile", SECRET)
    assert red.minutes == 60.0
    assert (two.name, two.key) == ("two", "APItwo")
    assert third.name == "s2.example"


def test_what_yaml_lacks_is_named_with_its_variable(place: Place) -> None:
    config = place.file("pool.yaml", "servers:\n- {name: red, url: ws://red, key: K}\n")
    message = place.refused({}, config_file=config)

    assert message.startswith("servers[0].secret (or LIVEKIT_SERVERS_0_SECRET) is missing beside ")
    assert "servers[0].url in pool.yaml" in message


def test_yaml_has_no_limit_and_takes_secrets_from_the_environment(place: Place) -> None:
    rows = "".join(f"- {{url: 'ws://s{n}', key: K{n}}}\n" for n in range(30))
    config = place.file("pool.yaml", f"servers:\n{rows}")
    env = {f"LIVEKIT_SERVERS_{n}_SECRET": SECRET for n in range(30)}

    assert names(place.load(env, config_file=config)) == [f"s{n}" for n in range(30)]
    assert "at most 20" in place.refused({**env, **slot(30)}, config_file=config)


@pytest.mark.parametrize(
    ("url", "pool"),
    [
        ("ws://127.0.0.1:7870", {}),
        ("http://localhost:7870/", {}),
        ("ws://[::1]:9", {"LIVEKIT_POOL_HOST": "::", "LIVEKIT_POOL_PORT": "9"}),
        ("ws://127.0.0.1:7870", {"LIVEKIT_POOL_HOST": "localhost"}),
        ("ws://127.0.0.1:7870", {"LIVEKIT_POOL_HOST": "0.0.0.0"}),
        ("ws://10.0.0.1:7870", {"LIVEKIT_POOL_HOST": "10.0.0.1"}),
        ("https://POOL.example", {"LIVEKIT_POOL_URL": "wss://pool.example/"}),
        ("ws://127.0.0.1:7870", {"LIVEKIT_POOL_URL": "wss://pool.example/"}),
    ],
)
def test_a_server_that_is_the_pool_is_refused(place: Place, url: str, pool: dict[str, str]) -> None:
    message = place.refused({**slot(0), **slot(1, URL=url), **pool, **PAIR})

    assert message.startswith("LIVEKIT_SERVERS_1_URL is the pool's own address")


@pytest.mark.parametrize(
    ("url", "pool"),
    [
        ("ws://127.0.0.1:7880", {}),
        ("ws://10.0.0.1:7870", {}),
        ("ws://127.0.0.1:7870", {"LIVEKIT_POOL_HOST": "10.0.0.1"}),
        ("wss://pool.example:8443", {"LIVEKIT_POOL_URL": "wss://pool.example"}),
    ],
)
def test_a_neighbour_of_the_pool_is_not_the_pool(
    place: Place, url: str, pool: dict[str, str]
) -> None:
    assert len(place.load({**slot(1, URL=url), **slot(0), **pool, **PAIR}).servers) == 2


def test_a_command_that_needs_no_server_reads_none(place: Place) -> None:
    half = slot(0, SECRET="")

    assert place.load(half, need_servers=False).servers == ()
    assert "LIVEKIT_SERVERS_0_SECRET" in place.refused(half)


# --- the pool's own key pair ---


def test_a_configured_pair_is_used_and_nothing_is_written(place: Place) -> None:
    settings = place.load({**slot(), **PAIR})

    assert (settings.key, settings.secret) == ("APIpool", SECRET)
    assert settings.key_origin == "LIVEKIT_POOL_KEY"
    assert ensure_key_pair(settings) is settings
    assert find_key_pair(settings) is settings
    assert list(place.path.iterdir()) == []


@pytest.mark.parametrize("gone", sorted(PAIR))
def test_half_a_pair_is_refused(place: Place, gone: str) -> None:
    (there,) = PAIR.keys() - {gone}

    message = place.refused({**slot(), there: PAIR[there]})
    assert message == f"{there} is set but {gone} is missing: set both or neither."


def test_a_short_secret_is_refused(place: Place) -> None:
    message = place.refused({**slot(), **PAIR, "LIVEKIT_POOL_SECRET": SECRET[:31]})

    assert message.startswith("LIVEKIT_POOL_SECRET must have at least 32 characters")
    assert SECRET[:31] not in message
    assert place.load({**slot(), **PAIR, "LIVEKIT_POOL_SECRET": SECRET[:32]}).secret == SECRET[:32]


def test_a_servers_key_as_the_pools_is_warned_of(place: Place) -> None:
    settings = place.load({**slot(0, KEY="APIpool"), **PAIR})

    (warning,) = settings.warnings
    assert warning.startswith("LIVEKIT_POOL_KEY is a server's key too")


def test_no_secret_is_in_a_repr(place: Place) -> None:
    settings = place.load({**slot(), **PAIR, "LIVEKIT_POOL_STORE": f"redis://u:{SECRET}@h/0"})

    assert SECRET not in repr(settings)


def test_a_pair_is_made_once_and_found_again(place: Place) -> None:
    settings = place.load()
    with pytest.raises(ConfigurationError, match="There is no key pair: set LIVEKIT_POOL_KEY"):
        find_key_pair(settings)
    made = ensure_key_pair(settings)
    file = place.path / "livekit-pool.key"

    assert made.key.startswith("API")
    assert len(made.secret) >= 43
    assert made.key_origin == str(file)
    assert made.warnings == ()
    assert file.stat().st_mode & 0o777 == 0o600
    assert find_key_pair(settings) == ensure_key_pair(settings) == made
    assert [path.name for path in place.path.iterdir()] == ["livekit-pool.key"]
    # The file is what a .env file of an application can take over.
    assert load(env=slot(), cwd=place.path, env_file=file).secret == made.secret


def test_two_pools_do_not_get_one_pair(tmp_path: Path) -> None:
    pairs = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = ensure_key_pair(Place(tmp_path / name).load())
        pairs |= {made.key, made.secret}

    assert len(pairs) == 4


@pytest.mark.parametrize(
    ("store", "file"),
    [
        ("sqlite:///livekit-pool.db", "livekit-pool.key"),
        ("sqlite:///x/other.db", "x/other.key"),
        ("sqlite:///x/pool", "x/pool.key"),
        ("sqlite:///x/pool.db?mode=rw", "x/pool.key"),
        ("sqlite:///x/pool.key", "x/pool.key.key"),
        ("sqlite:////var/pool.db", "/var/pool.key"),
        ("memory://", "livekit-pool.key"),
        ("redis://host:6379/0", "livekit-pool.key"),
    ],
)
def test_the_pair_is_kept_beside_the_database(place: Place, store: str, file: str) -> None:
    settings = place.load({**slot(), "LIVEKIT_POOL_STORE": store})

    assert settings.key_file == place.path / file


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "pool.example"])
def test_beyond_loopback_a_pair_must_be_set(place: Place, host: str) -> None:
    ensure_key_pair(place.load())  # there is one here, but it must not count
    settings = place.load({**slot(), "LIVEKIT_POOL_HOST": host})

    with pytest.raises(ConfigurationError, match="LIVEKIT_POOL_KEY and LIVEKIT_POOL_SECRET are"):
        ensure_key_pair(settings)
    with_pair = place.load({**slot(), **PAIR, "LIVEKIT_POOL_HOST": host})
    assert ensure_key_pair(with_pair) is with_pair


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost"])
def test_on_loopback_a_pair_is_made(place: Place, host: str) -> None:
    assert ensure_key_pair(place.load({**slot(), "LIVEKIT_POOL_HOST": host})).key


@pytest.mark.parametrize(
    "content",
    ["", "precious\n", "LIVEKIT_POOL_KEY=APIpool\n", "LIVEKIT_POOL_KEY=K\nLIVEKIT_POOL_SECRET=x\n",
     b"\xff\xfe", b"\x00" * 40],
)  # fmt: skip
def test_a_file_that_is_no_pair_is_refused_and_kept(place: Place, content: str | bytes) -> None:
    place.file("livekit-pool.key", content)
    before = (place.path / "livekit-pool.key").read_bytes()

    for function in (ensure_key_pair, find_key_pair):
        with pytest.raises(ConfigurationError, match=r"livekit-pool\.key"):
            function(place.load())
    assert (place.path / "livekit-pool.key").read_bytes() == before


def test_a_pair_that_others_can_read_is_warned_of(place: Place) -> None:
    ensure_key_pair(place.load())
    (place.path / "livekit-pool.key").chmod(0o644)

    (warning,) = ensure_key_pair(place.load()).warnings
    assert warning.endswith("livekit-pool.key can be read by others: run 'chmod 600' on it.")


def test_a_place_that_cannot_keep_a_pair_says_so(place: Place) -> None:
    settings = place.load({**slot(), "LIVEKIT_POOL_STORE": "sqlite:///missing/pool.db"})

    with pytest.raises(
        ConfigurationError, match=r"cannot be kept in .*missing/pool\.key \(No such"
    ):
        ensure_key_pair(settings)


def test_processes_that_start_at_once_get_one_pair(place: Place) -> None:
    place.file(".env", env_text(slot()))
    program = (
        "import sys; from pathlib import Path; from livekit_pool.config import *\n"
        "settings = load(env={}, cwd=Path(sys.argv[1])); print('ready', flush=True)\n"
        "sys.stdin.readline(); print(ensure_key_pair(settings).secret)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(place.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        made = [process.communicate(timeout=30)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()

    assert len(set(made)) == 1
    assert made[0].strip() == ensure_key_pair(place.load({})).secret
    assert sorted(path.name for path in place.path.iterdir()) == [".env", "livekit-pool.key"]


# --- what follows from other settings ---


def test_memory_means_one_worker(place: Place) -> None:
    memory = {**slot(), "LIVEKIT_POOL_STORE": "memory://"}

    assert (place.load(memory).workers, place.load(memory).warnings) == (1, ())
    told = place.load({**memory, "LIVEKIT_POOL_WORKERS": "3"})
    assert told.workers == 1
    assert told.warnings == ("LIVEKIT_POOL_WORKERS is not used: memory:// means one worker.",)


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:7870"),
        ({"LIVEKIT_POOL_HOST": "0.0.0.0"}, "http://127.0.0.1:7870"),
        ({"LIVEKIT_POOL_HOST": "::", "LIVEKIT_POOL_PORT": "80"}, "http://[::1]"),
        ({"LIVEKIT_POOL_TLS_CERT": "c", "LIVEKIT_POOL_TLS_KEY": "k"}, "https://127.0.0.1:7870"),
        ({"LIVEKIT_POOL_URL": "wss://Pool.example/"}, "https://pool.example"),
    ],
)
def test_where_the_pool_is_reached(place: Place, env: dict[str, str], url: str) -> None:
    assert place.load({**slot(), **env}).origin.http_url == url
