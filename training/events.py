"""The table of epochs as TensorBoard reads it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict

from training.plan import Epoch

NAME = "events.out.tfevents.0.certify"
"""TensorBoard looks for `tfevents` in names."""


def event_file(history: Sequence[Epoch]) -> bytes | None:
    """A file with the numbers of every epoch, at the seconds that training took so far as wall times. None where
    TensorBoard is not installed.

    A longer history's file begins with a shorter one's, so that a reader at work goes on where it was, and a run that
    was killed leaves nothing twice.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        return None
    file, clock = io.BytesIO(), 0.0
    writer = RecordWriter(file)
    writer.write(Event(wall_time=clock, file_version="brain.Event:2").SerializeToString())
    for epoch in history:
        clock += epoch.seconds
        numbers = {name: value for name, value in asdict(epoch).items() if name != "epoch"}
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()])
        writer.write(Event(wall_time=clock, step=epoch.epoch, summary=summary).SerializeToString())
    return file.getvalue()
