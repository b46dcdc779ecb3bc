"""The file for TensorBoard, as TensorBoard reads it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.events import NAME, event_file
from training.plan import Epoch

NUMBERS = st.floats(0, 1e6, width=32)
HISTORIES = st.lists(st.tuples(*[NUMBERS] * 6), min_size=1, max_size=4).map(
    lambda rows: [Epoch(i + 1, *row) for i, row in enumerate(rows)]
)


@settings(max_examples=20, deadline=None)
@given(HISTORIES)
def test_every_number_of_every_epoch_is_read_back(history):
    data = event_file(history)
    with TemporaryDirectory() as folder:
        with open(f"{folder}/{NAME}", "wb") as file:
            file.write(data)
        reader = EventAccumulator(folder)
        reader.Reload()
    names = [name for name in asdict(history[0]) if name != "epoch"]
    assert sorted(reader.Tags()["scalars"]) == sorted(names)
    for name in names:
        read = reader.Scalars(name)
        assert [(e.step, e.value) for e in read] == [(e.epoch, pytest.approx(getattr(e, name))) for e in history]
        assert [e.wall_time for e in read] == sorted(e.wall_time for e in read)
    assert data.startswith(event_file(history[:-1]))


def test_without_tensorboard_there_is_no_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert event_file([Epoch(1, *[0.5] * 6)]) is None
