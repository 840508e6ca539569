"""The shapes that nearly every WebSocket frame of a pipe has, done in a few lines instead of a few dozen calls.

Out: one masked text frame, whole or a fragment. In: whole, unmasked, unfragmented text frames that begin at a border
between frames and between messages. All else is wsproto's business; ``WebSocketClient(fast=False)`` leaves everything
to it, and a test holds both to the same bytes.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["CONTINUE", "FIN", "TEXT", "mask_frame", "take_text_frames"]

#: First byte of a frame (RFC 6455 section 5.2): the last of its message, and what it carries.
FIN = 0x80
TEXT = 0x01
CONTINUE = 0x00

_TEXT_FIN = TEXT | FIN
_U16 = Struct("!H")
_U64 = Struct("!Q")
#: Up to here one big integer is faster than four strided tables (bytes; measured).
_SMALL = 512
_TABLES: dict[int, bytes] = {}


def mask_frame(first: int, payload: bytes, key: bytes) -> bytes:
    """One client frame around ``payload``, masked with the four bytes of ``key``. ``first``: its first byte."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0xFE)) + _U16.pack(size)
    else:
        head = bytes((first, 0xFF)) + _U64.pack(size)
    return b"".join((head, key, _mask(payload, key)))


def _mask(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    if size <= _SMALL:
        whole = (key * (size // 4 + 1))[:size]
        masked = int.from_bytes(payload, "little") ^ int.from_bytes(whole, "little")
        return masked.to_bytes(size, "little")
    out = bytearray(size)
    for i in range(4):
        out[i::4] = payload[i::4].translate(_table(key[i]))
    return bytes(out)


def _table(byte: int) -> bytes:
    table = _TABLES.get(byte)
    if table is None:
        table = _TABLES[byte] = bytes(byte ^ value for value in range(256))
    return table


def take_text_frames(data: bytes, at: int, limit: int) -> tuple[list[bytes], int]:
    """The payloads of the plain text frames in ``data`` from ``at`` on, and where the first other thing begins.

    Stops before a control frame, a fragment, a masked, binary, oddly encoded or incomplete frame, one above ``limit``
    bytes, and one that is no UTF-8: wsproto has the words and the close codes for these.
    """
    messages: list[bytes] = []
    end = len(data)
    while end - at >= 2 and data[at] == _TEXT_FIN:
        size = data[at + 1]
        start = at + 2
        if size >= 126:
            if size == 126:
                if end - at < 4:
                    break
                (size,) = _U16.unpack_from(data, start)
                start += 2
                if size < 126:
                    break  # not the shortest form, which section 5.2 asks for
            elif size == 127:
                if end - at < 10:
                    break
                (size,) = _U64.unpack_from(data, start)
                start += 8
                if size < 65536:
                    break
            else:
                break  # masked: a server must not
        if size > limit or end - start < size:
            break
        payload = data[start : start + size]
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                break
        messages.append(payload)
        at = start + size
    return messages, at
