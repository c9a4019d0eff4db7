"""TensorBoard event files."""

import socket
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class EventFile:
    """A TensorBoard event file for a run that goes on from `step`.

    Written at once, in tensorboardX's format: its own writer is a thread, in which a full disk
    is a stack trace.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._records = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        if step:  # TensorBoard then drops what an earlier process wrote of later steps.
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(step=step, summary=Summary(value=scalars))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _add(self, **fields) -> None:
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
