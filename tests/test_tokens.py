"""Access tokens: verified, signed, re-signed; cross-checked with PyJWT and LiveKit's own SDK."""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit import api

from livekit_pool import tokens
from livekit_pool.exceptions import TokenError
from livekit_pool.servers import Server
from livekit_pool.tokens import Claims, KeyPair, Kind, Location, Refusal

NOW = 1_800_000_000
POOL = KeyPair(key="APIpool", secret="pool-secret-pool-secret-pool-secret")
RED = Server(name="red", url="ws://red", key="APIred", secret="red-secret-red-secret-red-secret-")
VIDEO = {"roomJoin": True, "room": "standup"}
CLAIMS: dict[str, Any] = {"sub": "alice", "video": VIDEO, "nbf": NOW, "exp": NOW + 3600}


def signed(claims: object, secret: str = POOL.secret, **header: object) -> str:
    """Sign anything at all, by hand: what a forger or another library might send."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    data = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    head = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT', **header}).encode())}.{part(data)}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{head}.{part(algorithm.sign(head.encode(), secret.encode()))}"


def good(**changes: object) -> dict[str, Any]:
    return {**CLAIMS, "iss": POOL.key, **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in good().items() if key != name}


def read(token: str, secret: str = RED.secret) -> dict[str, Any]:
    """Read a token's claims with PyJWT, whatever its times."""
    claims = json.loads(jwt.PyJWS().decode(token, secret, algorithms=["HS256"]))
    assert isinstance(claims, dict)
    return claims


# --- verify ---


def test_verified_claims_are_told() -> None:
    claims = tokens.verify(signed(good(name="Alice", other={"kept": [1]})), POOL, NOW)

    assert claims.identity == "alice"
    assert claims.room == "standup"
    assert claims.grants == VIDEO
    assert claims.expires == NOW + 3600
    assert claims.pool is None
    assert claims.location is None
    assert claims.raw["other"] == {"kept": [1]}


def test_identity_is_sub_else_jti_else_empty() -> None:
    assert tokens.verify(signed(good(jti="bob")), POOL, NOW).identity == "alice"
    assert tokens.verify(signed({**without("sub"), "jti": "bob"}), POOL, NOW).identity == "bob"
    service = tokens.verify(signed({"iss": POOL.key, "exp": NOW + 60}), POOL, NOW)
    assert (service.identity, service.room, service.grants) == ("", "", {})


@pytest.mark.parametrize(
    ("token", "code"),
    [
        pytest.param(None, Refusal.MISSING, id="none"),
        pytest.param("", Refusal.MISSING, id="empty"),
        pytest.param("alice", Refusal.MALFORMED, id="not-a-jwt"),
        pytest.param("a.b.c", Refusal.MALFORMED, id="three-parts"),
        pytest.param("ä.ö.ü", Refusal.MALFORMED, id="not-ascii"),
        pytest.param("\udcff", Refusal.MALFORMED, id="not-even-text"),
        pytest.param(signed(good())[:-1] + "!", Refusal.MALFORMED, id="not-base64"),
        pytest.param(signed(good()) + "." + "e30", Refusal.MALFORMED, id="four-parts"),
        pytest.param(signed(good(), alg="none"), Refusal.MALFORMED, id="alg-none"),
        pytest.param(signed(good(), alg="HS512"), Refusal.MALFORMED, id="alg-other"),
        pytest.param(signed(good(), alg="RS256"), Refusal.MALFORMED, id="alg-public-key"),
        pytest.param(signed(good(), alg=None), Refusal.MALFORMED, id="alg-null"),
        pytest.param(signed(good(), alg=["HS256"]), Refusal.MALFORMED, id="alg-list"),
        pytest.param(signed(good(), crit=["x"], x=1), Refusal.MALFORMED, id="crit"),
        pytest.param(signed(b"{"), Refusal.MALFORMED, id="not-json"),
        pytest.param(signed(b"\xff"), Refusal.MALFORMED, id="not-utf-8"),
        pytest.param(signed(b"[]"), Refusal.MALFORMED, id="not-an-object"),
        pytest.param(
            signed(json.dumps(good()).encode() + b"{}"), Refusal.MALFORMED, id="two-objects"
        ),
        pytest.param(signed(b"[" * 90_000), Refusal.MALFORMED, id="deep"),
        pytest.param(signed(b'{"exp": NaN}'), Refusal.MALFORMED, id="nan"),
        pytest.param(signed(without("exp")), Refusal.MALFORMED, id="no-exp"),
        pytest.param(signed(good(exp=None)), Refusal.MALFORMED, id="exp-null"),
        pytest.param(signed(good(exp=str(NOW + 60))), Refusal.MALFORMED, id="exp-text"),
        pytest.param(signed(good(exp=True)), Refusal.MALFORMED, id="exp-bool"),
        pytest.param(signed(good(exp=10**400)), Refusal.MALFORMED, id="exp-huge"),
        pytest.param(signed(b'{"exp": 1e999}'), Refusal.WRONG_KEY, id="no-iss"),
        pytest.param(signed(good(exp=NOW - 60)), Refusal.EXPIRED, id="expired"),
        pytest.param(signed(good(nbf=NOW + 61)), Refusal.NOT_YET_VALID, id="not-yet"),
        pytest.param(signed(good(), "forged" * 8), Refusal.WRONG_KEY, id="forged"),
        pytest.param(signed(good(iss=RED.key), RED.secret), Refusal.WRONG_KEY, id="server-key"),
        pytest.param(signed(good(iss=RED.key)), Refusal.WRONG_KEY, id="other-iss"),
        pytest.param(signed(good(iss=None)), Refusal.WRONG_KEY, id="null-iss"),
        pytest.param(signed(good(metadata="x" * 100_000)), Refusal.TOO_LONG, id="too-long"),
        pytest.param("x" * 10_000_000, Refusal.TOO_LONG, id="ten-megabytes"),
    ],
)  # fmt: skip
def test_bad_token_is_refused_and_not_quoted(token: str | None, code: Refusal) -> None:
    with pytest.raises(TokenError) as caught:
        tokens.verify(token, POOL, NOW)

    assert caught.value.code == code
    assert caught.value.__suppress_context__  # the cause may quote what this error must not
    assert not token or token not in str(caught.value)
    assert POOL.secret not in repr(caught.value)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_is_refused_though_its_signature_is_right(algorithm: str) -> None:
    pair = KeyPair(key=POOL.key, secret=POOL.secret * 2)
    with pytest.raises(TokenError) as caught:
        tokens.verify(jwt.encode(good(), pair.secret, algorithm=algorithm), pair, NOW)

    assert caught.value.code == Refusal.MALFORMED


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_changed_in_any_part_is_refused(part: int) -> None:
    parts = signed(good()).split(".")
    middle = len(parts[part]) // 2
    parts[part] = (
        parts[part][:middle] + "AB"[parts[part][middle] == "A"] + parts[part][middle + 1 :]
    )

    with pytest.raises(TokenError):
        tokens.verify(".".join(parts), POOL, NOW)


def test_base64_that_is_not_for_urls_is_refused() -> None:
    token = next(
        token
        for number in range(1000)
        if {"-", "_"} <= set((token := signed(good(jti=str(number)))).rpartition(".")[2])
    )
    message, _, signature = token.rpartition(".")
    tokens.verify(token, POOL, NOW)

    for other in (
        signature.replace("-", "+"),
        signature.replace("_", "/"),
        signature + "=",
    ):
        with pytest.raises(TokenError) as caught:
            tokens.verify(f"{message}.{other}", POOL, NOW)
        assert caught.value.code == Refusal.MALFORMED


def test_white_space_around_the_claims_is_nothing() -> None:
    claims = json.dumps(good()).encode()

    assert tokens.verify(signed(b" \n" + claims + b"\r\t"), POOL, NOW).identity
    assert tokens.verify(signed(claims + b"\n"), POOL, NOW).data == claims + b"\n"


def test_times_have_sixty_seconds_of_leeway() -> None:
    tokens.verify(signed(good(exp=NOW - 59)), POOL, NOW)
    tokens.verify(signed(good(nbf=NOW + 60)), POOL, NOW)
    tokens.verify(signed(good(iat=NOW + 10**6)), POOL, NOW)  # LiveKit 1.13 does not ask either


def test_without_now_the_clock_counts() -> None:
    tokens.verify(signed(good(nbf=time.time(), exp=time.time() + 5)), POOL)
    with pytest.raises(TokenError):
        tokens.verify(signed(good(nbf=0, exp=time.time() - 100)), POOL)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("sub", 7),
        ("jti", []),
        ("name", {}),
        ("metadata", {"not": "a string"}),
        ("attributes", {"count": 1}),
        ("attributes", ["a"]),
        ("video", [VIDEO]),
        ("video", "admin"),
        ("roomConfig", "preset"),
        ("roomPreset", {}),
        ("sip", True),
        ("aud", 5),
        ("kindDetails", "x"),
        ("iat", "today"),
        ("nbf", False),
    ],
)
def test_a_claim_that_livekit_could_not_read_is_refused_here(claim: str, value: object) -> None:
    with pytest.raises(TokenError, match=f"claim {claim}") as caught:
        tokens.verify(signed(good(**{claim: value})), POOL, NOW)

    assert caught.value.code == Refusal.MALFORMED


@pytest.mark.parametrize(
    ("grant", "value"),
    [
        ("room", 1),
        ("roomJoin", "yes"),
        ("canPublish", 1),
        ("canPublishSources", "camera"),
        ("canPublishSources", [1]),
    ],
)
def test_a_grant_that_livekit_could_not_read_is_refused_here(grant: str, value: object) -> None:
    with pytest.raises(TokenError, match=f"claim video.{grant}"):
        tokens.verify(signed(good(video={**VIDEO, grant: value})), POOL, NOW)


def test_null_and_unknown_claims_and_any_audience_are_accepted() -> None:
    claims = good(
        aud="elsewhere",
        name=None,
        attributes={"a": None},
        video={"room": None, "later": 1},
        later={"x": 1},
    )

    assert tokens.verify(signed(claims), POOL, NOW).raw == claims


def test_no_secret_or_claim_is_in_a_repr() -> None:
    claims = tokens.verify(signed(good(metadata="private")), POOL, NOW)

    assert POOL.secret not in repr(POOL)
    assert "private" not in repr(claims)
    assert "alice" not in repr(claims)


# --- the pool's own claims ---


def test_pool_token_opens_what_its_kind_says() -> None:
    for kind in Kind:
        token = tokens.pool_token(POOL, kind, subject="ops", ttl=60, now=NOW)
        claims = tokens.verify(token, POOL, NOW)

        assert claims.pool is kind
        assert claims.identity == "ops"
        assert claims.grants == {}
        assert claims.expires == NOW + 60


@pytest.mark.parametrize("value", ["root", "", "ADMIN", True, 1, ["admin"], {"admin": True}])
def test_any_other_pool_claim_opens_nothing(value: object) -> None:
    assert tokens.verify(signed(good(pool=value)), POOL, NOW).pool is None


def test_location_is_read() -> None:
    token = signed(good(livekitPool={"revision": 7, "server": "red"}))

    assert tokens.verify(token, POOL, NOW).location == Location(revision=7, server="red")


@pytest.mark.parametrize(
    "value",
    [None, 7, "red", [], {}, {"revision": 7}, {"server": "red"},
     {"revision": "7", "server": "red"}, {"revision": True, "server": "red"},
     {"revision": 7.0, "server": "red"}, {"revision": 7, "server": 1}],
)  # fmt: skip
def test_a_location_of_another_shape_is_none(value: object) -> None:
    assert tokens.verify(signed(good(livekitPool=value)), POOL, NOW).location is None


# --- re-signing ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
texts = st.text(max_size=30)
any_claims = st.fixed_dictionaries(
    {"sub": texts, "exp": st.integers(NOW, 2**40)},
    optional={
        "name": texts,
        "metadata": texts,
        "attributes": st.dictionaries(texts, texts, max_size=3),
        "video": st.fixed_dictionaries({}, optional={
            "room": texts, "roomJoin": st.booleans(), "canPublish": st.booleans(),
            "canPublishSources": st.lists(texts, max_size=2), "later": json_values}),
        "sip": st.dictionaries(texts, json_values, max_size=2),
        "roomConfig": st.dictionaries(texts, json_values, max_size=3),
        "kindDetails": st.lists(texts, max_size=2),
        "sha256": texts,
        "iat": st.integers(0, NOW),
        "aud": texts,
        "later": json_values,
    },
)  # fmt: skip


@given(any_claims, st.sampled_from(["s", "short secret", RED.secret, "ö" * 40]))
def test_resigned_token_says_the_same_to_pyjwt(claims: dict[str, Any], secret: str) -> None:
    own = {"pool": "admin", "livekitPool": {"revision": 1, "server": "red"}}
    verified = tokens.verify(tokens.sign({**claims, **own}, POOL), POOL, NOW)
    again = tokens.resign(verified.raw, "APIred", secret, now=NOW)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT's, about the short secrets
        assert read(again, secret) == {**claims, "iss": "APIred"}
    assert jwt.get_unverified_header(again) == {"alg": "HS256", "typ": "JWT"}


@given(any_claims)
def test_what_pyjwt_signs_is_verified_and_keeps_every_claim(claims: dict[str, Any]) -> None:
    claims = {**claims, "iss": POOL.key}
    token = jwt.encode(claims, POOL.secret, algorithm="HS256")

    assert tokens.verify(token, POOL, NOW).raw == claims
    assert tokens.claims_of(tokens.payload(token)).raw == claims


def test_text_that_is_no_utf_8_survives() -> None:
    claims = good(metadata="half \ud83d of a pair", name="whole 😀")
    again = tokens.resign(tokens.verify(signed(claims), POOL, NOW).raw, RED.key, RED.secret)

    assert read(again) == {**claims, "iss": RED.key}


def test_text_beyond_ascii_does_not_grow() -> None:
    # Three bytes a character, not the six of an escape: proxies before a server limit headers.
    token = tokens.resign(good(metadata="漢" * 1000), RED.key, RED.secret)

    assert len(token) < 3000 * 4 / 3 + 500


@pytest.mark.parametrize(("issued", "sent"), [(NOW + 5, NOW), (NOW, NOW), (NOW - 9, NOW - 9)])
def test_issued_in_the_future_becomes_now(issued: int, sent: int) -> None:
    assert read(tokens.resign(good(iat=issued), RED.key, RED.secret, now=NOW))["iat"] == sent


def test_resigning_adds_no_time() -> None:
    assert read(tokens.resign(good(), RED.key, RED.secret, now=NOW)) == good(iss=RED.key)


# --- refresh tokens ---


def refresh(
    original: Mapping[str, Any], latest: Mapping[str, Any], *, key: str = RED.key,
    secret: str = RED.secret, now: float = NOW,
) -> Claims:  # fmt: skip
    token = tokens.refreshed(
        signed({**latest, "iss": key}, secret), RED, original, POOL,
        revision=7, server_name="red", now=now,
    )  # fmt: skip
    return tokens.verify(token, POOL, now)


ORIGINAL = good(
    name="Alice", metadata="before", attributes={"a": "1"}, kindDetails=["x"], sha256="hash",
    sip={"call": True}, agent={"admin": True}, inference={"perform": True},
    observability={"write": True}, later={"kept": 1}, iat=NOW - 60,
    video={**VIDEO, "canPublish": True, "canUpdateOwnMetadata": True},
)  # fmt: skip
LATEST = {
    "sub": "alice", "name": "Alice B.", "metadata": "after", "iat": NOW, "nbf": NOW,
    "exp": NOW + 7200, "video": {**VIDEO, "canPublish": False},
}  # fmt: skip


def test_refreshed_token_has_the_latest_of_what_livekit_carries_and_the_rest_of_the_original() -> (
    None
):
    claims = refresh(ORIGINAL, LATEST)

    assert claims.raw == {
        "iss": POOL.key,
        **{key: LATEST[key] for key in ("sub", "name", "metadata", "video", "exp")},
        **{
            key: ORIGINAL[key]
            for key in ("kindDetails", "sha256", "sip", "agent", "inference", "observability")
        },
        "later": {"kept": 1},
        "nbf": NOW,
        "livekitPool": {"revision": 7, "server": "red"},
    }
    assert claims.location == Location(revision=7, server="red")


def test_a_second_refresh_starts_from_the_first() -> None:
    first = refresh(ORIGINAL, LATEST)
    again = refresh(first.raw, LATEST)

    assert again.raw == first.raw


def test_metadata_that_was_cleared_stays_cleared() -> None:
    latest = {key: value for key, value in LATEST.items() if key not in ("metadata", "name")}
    claims = refresh(ORIGINAL, latest)

    assert not {"metadata", "name", "attributes"} & claims.raw.keys()


def test_grants_taken_away_stay_away() -> None:
    assert "canUpdateOwnMetadata" not in refresh(ORIGINAL, LATEST).grants
    assert refresh(ORIGINAL, LATEST).grants["canPublish"] is False
    no_video = {key: value for key, value in LATEST.items() if key != "video"}
    assert refresh(ORIGINAL, no_video).grants == {}


@pytest.mark.parametrize("wide", ["roomAdmin", "roomCreate", "roomList", "ingressAdmin"])
def test_a_server_cannot_make_its_participants_administrators(wide: str) -> None:
    latest = {**LATEST, "video": {**VIDEO, wide: True}, "pool": "admin", "sip": {"admin": True}}

    claims = refresh(ORIGINAL, latest)
    assert wide not in claims.grants
    assert claims.pool is None
    assert claims.raw["sip"] == {"call": True}
    # Who had it keeps it.
    assert refresh(good(video={**VIDEO, wide: True}), latest).grants[wide] is True


def test_a_session_does_not_renew_the_right_to_administer_the_pool() -> None:
    assert refresh({**ORIGINAL, "pool": "admin"}, LATEST).pool is None


def test_a_server_cannot_say_where_its_participant_was_sent() -> None:
    latest = {**LATEST, "livekitPool": {"revision": 99, "server": "evil"}}

    assert refresh(ORIGINAL, latest).location == Location(revision=7, server="red")


@pytest.mark.parametrize(
    ("latest", "key", "secret"),
    [
        pytest.param(LATEST, "APIred2", "another-of-its-secrets-another-of-", id="its-other-key"),
        pytest.param(LATEST, "APIred2", RED.secret, id="other-iss"),
        pytest.param({**LATEST, "sub": "mallory"}, RED.key, RED.secret, id="other-identity"),
        pytest.param({**LATEST, "video": []}, RED.key, RED.secret, id="unreadable"),
    ],
)
def test_what_cannot_be_trusted_leaves_the_original_with_new_times(
    latest: Mapping[str, Any], key: str, secret: str
) -> None:
    late = NOW + 3600  # the original ends now
    claims = refresh(ORIGINAL, latest, key=key, secret=secret, now=late)

    times = {"nbf": late, "exp": late + 600, "livekitPool": {"revision": 7, "server": "red"}}
    assert claims.raw == {**{k: v for k, v in ORIGINAL.items() if k != "iat"}, **times}


def test_the_pools_clock_counts_not_the_servers() -> None:
    fast = refresh(ORIGINAL, {**LATEST, "nbf": NOW + 5000, "iat": NOW + 5000})
    slow = refresh(good(exp=NOW - 10), {**LATEST, "nbf": NOW - 5000, "exp": NOW - 4400})

    assert fast.raw["nbf"] == slow.raw["nbf"] == NOW
    assert slow.expires == NOW + 600
    assert "iat" not in fast.raw


def test_a_refresh_never_shortens_what_the_client_had() -> None:
    short = {**LATEST, "exp": NOW + 700}

    assert refresh(good(exp=NOW + 9000), short).expires == NOW + 9000
    assert refresh(good(exp=NOW + 650), short).expires == NOW + 700


def test_identity_from_jti_is_the_same_person() -> None:
    original = {**without("sub"), "jti": "alice"}

    assert refresh(original, LATEST).raw["metadata"] == "after"


def test_news_sends_a_session_elsewhere_and_keeps_the_rest() -> None:
    last = refresh(ORIGINAL, LATEST)
    token = tokens.news(last.raw, POOL, revision=8, server_name="green", now=NOW + 7300)
    told = tokens.verify(token, POOL, NOW + 7300)

    assert told.location == Location(revision=8, server="green")
    assert told.expires == NOW + 7300 + 600
    changed = {"livekitPool", "nbf", "exp"}
    assert {k: v for k, v in told.raw.items() if k not in changed} == {
        k: v for k, v in last.raw.items() if k not in changed
    }


@given(any_claims, any_claims)
def test_refreshing_loses_nothing_that_livekit_does_not_carry(
    original: dict[str, Any], latest: dict[str, Any]
) -> None:
    claims = refresh({**original, "sub": "a"}, {**latest, "sub": "a"})

    for name in original.keys() - {"sub", "name", "metadata", "attributes", "video", "roomConfig"}:
        if name not in ("exp", "iat"):
            assert claims.raw[name] == original[name]
    for name in ("name", "metadata", "attributes", "roomConfig"):
        assert claims.raw.get(name) == latest.get(name)


# --- tokens for participants, and LiveKit's SDK ---


def test_participant_token_is_what_the_sdk_reads() -> None:
    token = tokens.participant_token(
        POOL, identity="alice", room="standup", name="Alice", metadata="m", attributes={"a": "1"},
        room_config={"agents": [{"agentName": "helper"}]}, grants={"canPublish": False},
    )  # fmt: skip
    claims = api.TokenVerifier(POOL.key, POOL.secret).verify(token)

    assert (claims.identity, claims.name, claims.metadata) == ("alice", "Alice", "m")
    assert claims.attributes == {"a": "1"}
    assert claims.video is not None
    assert (claims.video.room, claims.video.room_join) == ("standup", True)
    assert claims.video.can_publish is False
    assert claims.room_config is not None
    assert claims.room_config.agents[0].agent_name == "helper"


def test_participant_token_has_nbf_and_six_hours_and_nothing_empty() -> None:
    token = tokens.participant_token(POOL, identity="alice", room="standup", now=NOW)

    assert read(token, POOL.secret) == {
        "iss": POOL.key, "sub": "alice", "video": VIDEO, "nbf": NOW, "exp": NOW + 6 * 3600
    }  # fmt: skip


def test_grants_cannot_change_the_room() -> None:
    token = tokens.participant_token(
        POOL, identity="a", room="standup", grants={"room": "other", "roomJoin": False}
    )

    assert tokens.verify(token, POOL).grants == VIDEO


@pytest.mark.parametrize(
    "wrong",
    [{"identity": ""}, {"room": ""}, {"attributes": {"a": 1}}, {"grants": {"canPublish": "no"}}],
)
def test_participant_token_that_would_be_refused_is_not_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"token to join needs|LiveKit cannot read"):
        tokens.participant_token(POOL, **{"identity": "a", "room": "r", **wrong})


def test_the_sdks_token_passes_through_whole() -> None:
    made = (
        api.AccessToken(POOL.key, POOL.secret)
        .with_identity("alice")
        .with_kind("agent")
        .with_attributes({"a": "1"})
        .with_grants(api.VideoGrants(room_join=True, room="standup", can_publish_sources=["mic"]))
        .with_sip_grants(api.SIPGrants(call=True))
        .with_ttl(timedelta(minutes=5))
        .to_jwt()
    )
    verified = tokens.verify(made, POOL)
    again = tokens.resign(verified.raw, RED.key, RED.secret)
    told = api.TokenVerifier(RED.key, RED.secret)

    assert verified.identity == "alice"
    assert told.verify(again) == api.TokenVerifier(POOL.key, POOL.secret).verify(made)


def test_pool_token_is_no_participants_token_to_the_sdk() -> None:
    claims = api.TokenVerifier(POOL.key, POOL.secret).verify(tokens.pool_token(POOL, Kind.ADMIN))

    assert claims.video is not None
    assert not claims.video.room_join


@pytest.mark.parametrize("make", [tokens.sign, lambda c, p: tokens.resign(c, p.key, p.secret)])
def test_a_short_secret_signs_as_the_sdk_would_and_warns_nobody(
    make: Callable[[Mapping[str, Any], KeyPair], str],
) -> None:
    # LiveKit runs with such secrets (its own --dev mode has one); warnings are errors here.
    pair = KeyPair(key="devkey", secret="secret")
    token = make(good(), pair)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read(token, "secret")["iss"] == "devkey"
