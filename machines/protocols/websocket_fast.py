"""The shapes that nearly every WebSocket frame of a pipe has, done in a few lines instead of a few dozen calls.

Out: one masked, unfragmented text frame. In: whole, unmasked, unfragmented text frames, as long as wsproto holds no
part of a frame. All else is wsproto's business; ``WebSocketClient(fast=False)`` leaves everything to it, and a test
holds both to the same bytes.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["mask_text_frame", "take_text_frames"]

_TEXT_FIN = 0x81
_U16 = Struct("!H")
_U64 = Struct("!Q")
#: Up to here one big integer is faster than four strided tables (bytes).
_SMALL = 512
_TABLES: dict[int, bytes] = {}


def mask_text_frame(payload: bytes, key: bytes) -> bytes:
    """One whole client text frame (RFC 6455 section 5.2) around ``payload``, masked with these four bytes."""
    size = len(payload)
    if size < 126:
        head = bytes((_TEXT_FIN, 0x80 | size))
    elif size < 65536:
        head = bytes((_TEXT_FIN, 0xFE)) + _U16.pack(size)
    else:
        head = bytes((_TEXT_FIN, 0xFF)) + _U64.pack(size)
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


def take_text_frames(data: bytes, limit: int) -> tuple[list[bytes], bytes]:
    """The payloads of the plain text frames that ``data`` begins with, and what is left of it.

    Stops before anything else: a control frame, a fragment, a masked or binary or incomplete frame, one above
    ``limit`` bytes. The payloads are not checked to be UTF-8: the JSON decoder does that.
    """
    messages: list[bytes] = []
    at, end = 0, len(data)
    while end - at >= 2 and data[at] == _TEXT_FIN:
        size = data[at + 1]
        start = at + 2
        if size >= 126:
            if size == 126:
                if end - at < 4:
                    break
                (size,) = _U16.unpack_from(data, start)
                start += 2
            elif size == 127:
                if end - at < 10:
                    break
                (size,) = _U64.unpack_from(data, start)
                start += 8
            else:
                break  # masked: a server must not, and wsproto says so
        if size > limit or end - start < size:
            break
        at = start + size
        messages.append(data[start:at])
    return messages, data[at:] if at else data
