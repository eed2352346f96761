"""Who gets in: the token, the name that the page is called by, and the headers that keep other sites out."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from cada_edge.runtime.page_address import is_loopback

__all__ = ["HEADERS", "Gate", "Request", "Response"]

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: no other site reads, embeds or scripts the page, and no token leaves in a referrer."""

_MOST_FIELDS = 20
"""Of a query; what has more is no request of the page's."""

_COOKIE_LIFE_S = 30 * 24 * 3600


@dataclass(frozen=True)
class Request:
    """What a viewer wants; names of headers in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The address without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's first values."""
        found = parse_qs(self.target.partition("?")[2])
        return {name: values[0] for name, values in found.items()}

    @property
    def fields(self) -> int:
        """Number of the query's fields, at least 1, without reading them."""
        return 1 + self.target.partition("?")[2].count("&")


@dataclass(frozen=True)
class Response:
    """What a viewer gets."""

    status: int
    content_type: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        """Make an answer of plain text."""
        return cls(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers or {})


class Gate:
    """Decides about each request before anything else is done with it."""

    def __init__(self, *, host: str, port: int, token: str | None, sign_in: bytes, welcome: bytes) -> None:
        """Prepare.

        Args:
            host: That is served, IPv6 without brackets.
            port: That is served: cookies know none, and two pages of one machine must not share theirs.
            token: As for `cada_edge.runtime.page_address.PageAddress`.
            sign_in: HTML page that asks for the token.
            welcome: HTML page that goes on to the first one.
        """
        self._host = host.lower()
        self._token = None if token is None else token.encode()
        self._cookie = f"cada_edge_{port}"
        self._sign_in, self._welcome = sign_in, welcome
        # What the browser keeps is no token: it opens this page alone.
        self._pass = (
            "" if token is None else hmac.new(token.encode(), b"cada-edge page", hashlib.sha256).hexdigest()
        )

    def check(self, request: Request) -> Response | None:
        """Return what a viewer gets instead of what he wants; None: he may have it."""
        if request.method not in ("GET", "HEAD"):
            return Response.text(
                405, "The page is only looked at: GET and HEAD are answered.", {"Allow": "GET, HEAD"}
            )
        if not self._is_our_name(request.headers.get("host", "")):
            # Another site's name that was made to resolve to this machine (DNS rebinding).
            return Response.text(403, "Ask for this page by localhost or by the address it is served at.")
        if request.fields > _MOST_FIELDS:
            return Response.text(400, f"Wanted at most {_MOST_FIELDS} fields in the query.")
        if self._token is None:
            return None
        given = request.query.get("token")
        if given is not None and request.path == "/":
            return self._enter(given)
        if self._is_known(request):
            return None
        if request.path == "/":
            return Response(401, "text/html; charset=utf-8", self._sign_in)
        return Response.text(
            401, "Wanted the header 'Authorization: Bearer TOKEN'.", {"WWW-Authenticate": "Bearer"}
        )

    def is_wrong_token(self, request: Request) -> bool:
        """Tell whether a viewer has tried a token that is wrong: the answer may take its time."""
        if request.fields > _MOST_FIELDS:
            return False
        given = request.query.get("token", "") or _bearer(request)
        return self._token is not None and bool(given) and not self._is_token(given)

    def _is_our_name(self, host: str) -> bool:
        if not is_loopback(self._host):
            return True  # the token decides, and no other site's page has the cookie of this name
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name == self._host or is_loopback(name)

    def _enter(self, given: str) -> Response:
        if not self._is_token(given):
            return Response(401, "text/html; charset=utf-8", self._sign_in)
        cookie = f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Strict; Max-Age={_COOKIE_LIFE_S}"
        # No redirect: after a click on a link elsewhere a browser would not send a strict cookie along.
        return Response(200, "text/html; charset=utf-8", self._welcome, {"Set-Cookie": cookie})

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token)

    def _is_known(self, request: Request) -> bool:
        if self._is_token(_bearer(request)):
            return True
        for part in request.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._cookie and hmac.compare_digest(value.encode(), self._pass.encode()):
                return True
        return False


def _bearer(request: Request) -> str:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else ""
