"""The table of epochs as TensorBoard reads it: an event file, written without TensorBoard.

A file is a row of records (length, checksum, bytes, checksum), each one protocol buffer message `Event`: field 1 the
wall time, 2 the step, 3 the version, 5 the summary, which holds values of a tag (1) and a number (2).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict

from training.plan import Epoch

NAME = "events.out.tfevents.0.certify"
"""TensorBoard looks for `tfevents` in names."""

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
_MASK = 0xA282EAD8  # added to checksums that lie beside what they check


def event_file(history: Sequence[Epoch]) -> bytes:
    """A file with the numbers of every epoch, at the seconds that training took so far as wall times.

    A longer history's file begins with a shorter one's, so that a reader at work goes on where it was.
    """
    records, clock = [_record(_number(1, 0.0) + _bytes(3, b"brain.Event:2"))], 0.0
    for epoch in history:
        clock += epoch.seconds
        numbers = {name: value for name, value in asdict(epoch).items() if name != "epoch"}
        summary = b"".join(_bytes(1, _bytes(1, name.encode()) + _single(2, value)) for name, value in numbers.items())
        records.append(_record(_number(1, clock) + _count(2, epoch.epoch) + _bytes(5, summary)))
    return b"".join(records)


def checksum(data: bytes) -> int:
    """The CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_row(byte) for byte in range(256))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = checksum(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    digits: list[int] = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _count(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _number(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _single(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
