"""Where the page is served, and who may see it: this machine alone, or whoever has the token."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from cada_edge.errors import ConfigError

__all__ = ["TOKEN_VARIABLE", "PageAddress", "is_loopback"]

TOKEN_VARIABLE = "CADA_EDGE_SERVE_TOKEN"
"""Environment variable of the command line for the token: an option is seen by every user of the machine."""

_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class PageAddress:
    """A checked address."""

    host: str
    """Name or number, IPv6 without brackets."""
    port: int
    """0 for any free one."""
    token: str | None = field(default=None, repr=False)
    """What a viewer must know; None: nothing, on this machine alone."""

    @classmethod
    def parse(cls, text: str, *, token: str | None = None) -> PageAddress:
        """Read HOST:PORT, [IPV6]:PORT or PORT, which is of this machine alone.

        Raises:
            ConfigError: It is none of these, another machine could reach it without a token, or the token is
                too short or holds what no header takes.

        Example:
            >>> PageAddress.parse("8080")
            PageAddress(host='127.0.0.1', port=8080)
            >>> PageAddress.parse("[::1]:0").host
            '::1'
        """
        found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):)?(\d{1,5})", text.strip())
        if found is None or int(found[2]) > 65535:
            raise ConfigError(
                f"The address {text!r} came; wanted HOST:PORT. Pass --serve 127.0.0.1:8080, with port 0 for "
                "any free one."
            )
        host = (found[1] or "127.0.0.1").strip("[]")
        if token is not None and not (len(token) >= _SHORTEST_TOKEN and re.fullmatch(r"[!-~]+", token)):
            raise ConfigError(
                f"A token of {len(token)} characters came; wanted at least {_SHORTEST_TOKEN} printable ones "
                "without spaces. Make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
            )
        if token is None and not is_loopback(host):
            raise ConfigError(
                f"The address {host} came, which other machines reach, without a token; wanted one, so that "
                f"not everybody on the network sees the line. Set {TOKEN_VARIABLE}, or serve on 127.0.0.1."
            )
        return cls(host, int(found[2]), token)

    def url(self, port: int) -> str:
        """Return where a browser finds the page, without the token."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}/"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host.

    Args:
        host: Name or number, IPv6 without brackets.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
