"""The messages that are no calls: hello, probes, attach, poll, cancel, a push to try; and what a server answers to the first two."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from devpipe.machines.protocols.envelope import Envelope, encode_payload

__all__ = [
    "Attach",
    "Cancel",
    "Control",
    "Hello",
    "Poll",
    "Probe",
    "PushProbe",
    "hello_payload",
    "read_control",
]

#: A session id is a secret of so many characters: no client may choose one that can be guessed.
MIN_SESSION, MAX_SESSION = 16, 128


class Hello(msgspec.Struct, kw_only=True):
    """A client introduces its session; ``resume``: a server has known it before."""

    session: str
    resume: bool = False
    nonce: str = ""
    protocol: int = 1


class Probe(msgspec.Struct, kw_only=True):
    """``health_ping`` or ``ping``: send the nonce back."""

    nonce: str = ""


class PushProbe(msgspec.Struct, kw_only=True):
    """``health_push``: push the nonce to this session, so that it can be seen whether pushes arrive.

    The nonce is short: the push must fit every transport, not only the one that asked.
    """

    nonce: Annotated[str, msgspec.Meta(max_length=128)] = ""


class Attach(msgspec.Struct, kw_only=True):
    """Pushes are to come over this path, behind ``after`` of ``epoch``."""

    number: int
    epoch: str | None = None
    after: int = 0


class Poll(msgspec.Struct, kw_only=True):
    """The same for a client that has no stream: answer when there is something, at the latest after ``hold`` s."""

    epoch: str | None = None
    after: int = 0
    hold: float = 20.0


class Cancel(msgspec.Struct, kw_only=True):
    """Nobody waits for this id any more."""

    id: str


Control: TypeAlias = Hello | Probe | PushProbe | Attach | Poll | Cancel

_DECODERS: dict[str, msgspec.json.Decoder[Control]] = {
    "hello": msgspec.json.Decoder(Hello),
    "health_ping": msgspec.json.Decoder(Probe),
    "ping": msgspec.json.Decoder(Probe),
    "health_push": msgspec.json.Decoder(PushProbe),
    "attach": msgspec.json.Decoder(Attach),
    "poll": msgspec.json.Decoder(Poll),
    "cancel": msgspec.json.Decoder(Cancel),
}


def read_control(envelope: Envelope) -> Control | None:
    """The control message that this is, None for any other. Raises ``msgspec.ValidationError`` if it is broken."""
    decoder = _DECODERS.get(envelope.type)
    if decoder is None:
        return None
    try:
        payload = bytes(envelope.payload or b"null")
        control = decoder.decode(b"{}" if payload == b"null" else payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise msgspec.ValidationError(str(error)) from error
    if isinstance(control, Hello) and not MIN_SESSION <= len(control.session) <= MAX_SESSION:
        raise msgspec.ValidationError(f"session has {len(control.session)} characters: give 16 to 128")
    return control


def hello_payload(
    *,
    server: str,
    nonce: str,
    time: int,
    session: str | None = None,
    resumed: bool = False,
    limit: int | None = None,
    push: tuple[str, int] | None = None,
) -> bytes:
    """What a server answers to ``hello``, and, shorter, to a probe; ``time`` in milliseconds."""
    payload: dict[str, object] = {"protocol": 1, "server": server, "nonce": nonce, "time": time}
    if session is not None:
        payload |= {"session": session, "resumed": resumed}
    if limit is not None:
        payload["limits"] = {"maxMessageBytes": limit}
    if push is not None:
        payload["push"] = {"epoch": push[0], "offset": push[1]}
    return encode_payload(payload, type="hello")
