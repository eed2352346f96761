"""Addresses, tokens, cookies and names: who may see the page."""

from __future__ import annotations

import pytest

from cada_edge.errors import ConfigError
from cada_edge.runtime.page_address import PageAddress, is_loopback
from cada_edge.runtime.page_gate import HEADERS, Gate, Request

TOKEN = "correct-horse-battery"


def gate(*, host: str = "127.0.0.1", token: str | None = None, port: int = 8080) -> Gate:
    return Gate(host=host, port=port, token=token, sign_in=b"sign in", welcome=b"welcome")


def request(target: str = "/", method: str = "GET", host: str = "127.0.0.1:8080", **headers: str) -> Request:
    return Request(method, target, {"host": host, **headers})


def status(found: Gate, wanted: Request) -> int:
    response = found.check(wanted)
    return 200 if response is None else response.status


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("127.8.9.1:1", "127.8.9.1", 1),
    ],
)
def test_addresses_of_this_machine_need_no_token(text: str, host: str, port: int) -> None:
    found = PageAddress.parse(text)
    assert (found.host, found.port, found.token) == (host, port, None)


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", "127.0.0.1:", "a:b", "host:70000", "http://x:1", "::1:80", "x y:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted HOST:PORT\. Pass --serve 127\.0\.0\.1:8080"):
        PageAddress.parse(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.7", "edge-box.local", "localhost.evil.org"])
def test_another_address_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match=r"without a token; wanted one.*CADA_EDGE_SERVE_TOKEN"):
        PageAddress.parse(f"{host}:8080")
    assert PageAddress.parse(f"{host}:8080", token=TOKEN).host == host.strip("[]")


@pytest.mark.parametrize(
    "token", ["", "short", "sixteen letters!", "sixteen-letters\n", "schlüssel-schlüssel"]
)
def test_a_token_that_is_short_or_no_header_takes_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted at least 16 printable ones.*secrets\.token_urlsafe"):
        PageAddress.parse("0.0.0.0:80", token=token)


def test_an_address_shows_no_token() -> None:
    found = PageAddress.parse("[::1]:80", token=TOKEN)
    assert TOKEN not in repr(found)
    assert found.url(8081) == "http://[::1]:8081/"


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "evil.org", "127.0.0.1.evil.org", "")))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get"])
def test_only_looking_is_possible(method: str) -> None:
    response = gate().check(request(method=method))
    assert response is not None
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert status(gate(), request(method="HEAD")) == 200


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LOCALHOST:9000", 200),  # a tunnel's port
        ("[::1]:8080", 200),
        ("evil.org", 403),
        ("evil.org:8080", 403),
        ("127.0.0.1.evil.org:8080", 403),
        ("localhost@evil.org", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_another_name_for_this_machine_is_refused(host: str, code: int) -> None:
    assert status(gate(), request(host=host)) == code
    assert status(gate(token=TOKEN), request(host=host, authorization=f"Bearer {TOKEN}")) == code


def test_without_the_token_nothing_is_seen() -> None:
    found = gate(host="0.0.0.0", token=TOKEN)
    for target in ("/api/state", "/metrics", "/api/live", "/api/rejects/1/frame.jpg"):
        response = found.check(request(target, host="edge:8080"))
        assert response is not None
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    first = found.check(request("/", host="edge:8080"))
    assert first is not None
    assert (first.status, first.body) == (401, b"sign in")


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü", TOKEN]
)
def test_a_wrong_token_is_refused(given: str) -> None:
    found = gate(host="0.0.0.0", token=TOKEN)
    assert status(found, request("/api/state", authorization=given)) == 401
    # In an address the token counts on the first page alone, where it is exchanged for the cookie.
    assert status(found, request(f"/api/state?token={TOKEN}")) == 401
    assert status(found, request("/?token=wrong-wrong-wrong-wrong")) == 401


def test_the_token_is_exchanged_for_a_cookie_that_is_none() -> None:
    found = gate(host="0.0.0.0", token=TOKEN)
    assert status(found, request("/metrics", authorization=f"bearer {TOKEN}")) == 200
    response = found.check(request(f"/?token={TOKEN}"))
    assert response is not None
    assert (response.status, response.body) == (200, b"welcome")
    cookie = response.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    kept = cookie.partition(";")[0]
    assert status(found, request("/api/state", cookie=f"other=1; {kept}")) == 200
    assert status(found, request("/api/state", cookie=f"{kept}0")) == 401
    assert status(found, request("/api/state", cookie=kept.partition("=")[0] + "=")) == 401
    assert status(gate(host="0.0.0.0", token="another-token-of-16"), request("/", cookie=kept)) == 401
    # Cookies know no port: another page on the same machine has its own.
    assert status(gate(host="0.0.0.0", token=TOKEN, port=8081), request("/", cookie=kept)) == 401


def test_tokens_that_are_tried_are_told_apart_from_none() -> None:
    found = gate(token=TOKEN)
    assert found.is_wrong_token(request("/?token=guess"))
    assert found.is_wrong_token(request("/api/state", authorization="Bearer guess"))
    assert not found.is_wrong_token(request("/api/state"))
    assert not found.is_wrong_token(request("/", authorization=f"Bearer {TOKEN}"))


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_query_of_many_fields_is_refused_unread(token: str | None) -> None:
    found = gate(token=token)
    most = "&".join(f"a{number}=1" for number in range(20))
    wanted = request(f"/api/trace?{most}", authorization=f"Bearer {TOKEN}")
    assert status(found, wanted) == 200
    wanted = request(f"/api/trace?{most}&b=1", authorization="Bearer guess")
    response = found.check(wanted)
    assert response is not None
    assert (response.status, response.body) == (400, b"Wanted at most 20 fields in the query.\n")
    assert not found.is_wrong_token(wanted)


def test_no_script_runs_but_our_own_and_no_other_site_reads_anything() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not [name for name in HEADERS if name.startswith("Access-Control")]
    assert (HEADERS["X-Content-Type-Options"], HEADERS["Referrer-Policy"]) == ("nosniff", "no-referrer")
