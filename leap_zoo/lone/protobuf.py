"""The wire format of Protocol Buffers, as much of it as reading a few fields of an ONNX file takes.

The bytes may come from anybody: every length is checked against what is there, nothing is copied before it is asked
for, and work is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_FIELDS = 200_000  # of one message; the graph of a large ViT has a few thousand

Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """(number, value) of each field of an encoded message, in order.

    The value is an int for varints and fixed widths, and a view of the bytes for what has a length: text, bytes,
    messages. Raises ValueError when the bytes are no message, or have more than MAX_FIELDS fields.
    """
    at = 0
    for _ in range(MAX_FIELDS):
        if at == len(message):
            return
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has number 0")
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        end = at + length
        if end > len(message):
            raise ValueError(f"field {number} is longer than its message")
        piece, at = message[at:end], end
        yield number, piece if kind == 2 else int.from_bytes(piece, "little")
    raise ValueError(f"a message has more than {MAX_FIELDS} fields")


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The pieces of field `number` that have a length, in order. Raises ValueError as `fields` does."""
    return (value for found, value in fields(message) if found == number and isinstance(value, memoryview))


def text(message: memoryview, number: int) -> str:
    """The last value of a text field, "" without one. Raises ValueError, also when it is no UTF-8."""
    last = b""
    for value in messages(message, number):
        last = bytes(value)
    return last.decode()


def integer(message: memoryview, number: int) -> int | None:
    """The last value of an integer field, None without one. Raises ValueError as `fields` does."""
    last = None
    for found, value in fields(message):
        if found == number and isinstance(value, int):
            last = value
    return last


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The integer at `at`, and where it ends."""
    value = 0
    for place in range(10):  # 64 bits, seven to a byte
        if at + place >= len(message):
            raise ValueError("a number is cut off")
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80 and value < 2**64:
            return value, at + place + 1
    raise ValueError("a number has more than 64 bits")
