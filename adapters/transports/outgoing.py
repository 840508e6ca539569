"""How a call is written for the server at the other end: the one place where a profile matters to what goes out."""

from __future__ import annotations

from devpipe.machines.config import PeerConfig
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.dialect import peer_fields
from devpipe.machines.protocols.envelope import encode_request
from devpipe.machines.protocols.profiles import Profile
from devpipe.machines.protocols.session import ClientSession

__all__ = ["write_call"]


def write_call(
    call: Call,
    *,
    profile: Profile,
    peer: PeerConfig,
    session: ClientSession | None,
    now: float,
    wall: float,
) -> bytes:
    """The envelope of a call. ``session``: where each message names it; ``wall`` in seconds since 1970."""
    timestamp = int(wall * 1000)
    if profile.sessions:
        return encode_request(
            id=call.id,
            type=call.type,
            payload=call.payload,
            timestamp=timestamp,
            priority=call.priority,
            expires_at=call.expires_at,
            session=None if session is None else session.id,
            server=None if session is None else session.server,
        )
    more = peer_fields(
        sender=peer.sender,
        recipient=peer.recipient,
        expires_at=timestamp + int((call.deadline - now) * 1000),
        iso=peer.iso_timestamps,
    )
    return encode_request(
        id=call.id,
        type=call.type,
        payload=call.payload,
        timestamp=timestamp,
        priority=call.priority,
        more=more,
        iso=peer.iso_timestamps,
    )
