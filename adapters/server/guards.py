"""Who may talk to this server: checked on POST, stream and socket alike, before anything is read."""

from __future__ import annotations

import hmac
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from devpipe.machines.config import ServerConfig

__all__ = ["Refusal", "check", "check_host", "read_headers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


FOREIGN_HOST = Refusal(
    status=421,
    code="forbidden_host",
    message="this server does not go by that Host: name it in allowed_hosts of its ServerConfig, "
    "or with devpipe serve --allow-host",
)


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; a repeated one counts once, as its first value."""
    headers: dict[str, str] = {}
    for name, value in raw:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers


def check_host(headers: Mapping[str, str], *, hosts: Container[str]) -> Refusal | None:
    """None if ``Host`` is a name that this server goes by, on whichever port: against DNS rebinding."""
    if "*" in hosts or _without_port(headers.get("host", "")) in hosts:
        return None
    return FOREIGN_HOST


def check(
    headers: Mapping[str, str], *, config: ServerConfig, hosts: Container[str], token: str | None
) -> Refusal | None:
    """None if the request may go on.

    ``Host`` as above; a browser's ``Origin`` must be allowed by name, against other sites' scripts; the token is compared
    in constant time (RFC 6750 section 2.1).
    """
    refusal = check_host(headers, hosts=hosts)
    if refusal is not None:
        return refusal
    origin = headers.get("origin")
    if origin is not None and origin not in config.allowed_origins:
        return Refusal(status=403, code="forbidden_origin", message="this Origin is not allowed")
    if token is not None:
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode("latin-1"), token.encode())
        if scheme.lower() != "bearer" or not right:
            return Refusal(
                status=401,
                code="unauthorized",
                message="a bearer token is wanted",
                headers=((b"www-authenticate", b"Bearer"),),
            )
    return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()
