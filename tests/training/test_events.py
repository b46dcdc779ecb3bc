"""The file for TensorBoard: its checksums, and what a protocol buffer reader of its own makes of it."""

from __future__ import annotations

import struct
from functools import cache

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from training.events import checksum, event_file
from training.plan import Epoch

NUMBERS = st.floats(0, 1e6, width=32)
EPOCHS = st.lists(st.builds(Epoch, st.integers(1, 10**6), *[NUMBERS] * 6), max_size=4)


@cache
def event_type() -> type:
    """The message `Event`, from its field numbers as TensorFlow's event.proto and summary.proto give them."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")
    layout = {
        "Value": [("tag", 1, field.TYPE_STRING, ""), ("simple_value", 2, field.TYPE_FLOAT, "")],
        "Summary": [("value", 1, field.TYPE_MESSAGE, ".t.Value")],
        "Event": [
            ("wall_time", 1, field.TYPE_DOUBLE, ""), ("step", 2, field.TYPE_INT64, ""),
            ("file_version", 3, field.TYPE_STRING, ""), ("summary", 5, field.TYPE_MESSAGE, ".t.Summary"),
        ],
    }  # fmt: skip
    for name, entries in layout.items():
        message = file.message_type.add(name=name)
        for entry, number, kind, of in entries:
            label = field.LABEL_REPEATED if entry == "value" else field.LABEL_OPTIONAL
            message.field.add(name=entry, number=number, type=kind, type_name=of or None, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def events(data: bytes) -> list:
    found, kind = [], event_type()
    while data:
        length, check = struct.unpack("<QI", data[:12])
        body, (body_check,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length :][:4])
        data = data[16 + length :]
        for part, masked in ((struct.pack("<Q", length), check), (body, body_check)):
            rotated = (masked - 0xA282EAD8) % 2**32
            assert (rotated >> 17 | rotated << 15) % 2**32 == checksum(part)
        found.append(kind.FromString(body))
    return found


def test_the_checksum_is_that_of_its_standard():
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@settings(max_examples=20)
@given(EPOCHS)
def test_every_number_of_every_epoch_is_read_back(history):
    data = event_file(history)
    first, *rest = events(data)
    assert first.file_version == "brain.Event:2"
    assert [e.step for e in rest] == [e.epoch for e in history]
    for event, epoch in zip(rest, history, strict=True):
        read = {v.tag: v.simple_value for v in event.summary.value}
        assert read == {"cpu_seconds": 0, **{k: pytest.approx(v) for k, v in vars(epoch).items() if k != "epoch"}}
    assert [e.wall_time for e in rest] == sorted(e.wall_time for e in rest)
    assert data.startswith(event_file(history[:-1]))
