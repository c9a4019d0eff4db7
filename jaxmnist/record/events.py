"""TensorBoard event files."""

import io
import socket
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from tensorboardX.proto.api_pb2 import DataType, Experiment, MetricName, Status
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import make_histogram

_HISTOGRAM_BINS = 64
_DATA_TYPES = {
    "bool": DataType.DATA_TYPE_BOOL,
    "string": DataType.DATA_TYPE_STRING,
    "number": DataType.DATA_TYPE_FLOAT64,
}
# HParamInfo.differs = true, which tensorboardX's version of the message lacks. TensorBoard sorts
# hyperparameters by it, and then by name.
_DIFFERS = b"\x38\x01"


class EventFile:
    """A TensorBoard event file of a run that starts at `step`.

    Everything is written at once. tensorboardX's own writer is a thread, in which a full disk ends
    in a stack trace, so only its parts are used.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._records = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        if step:  # TensorBoard then drops what an earlier process wrote of later steps.
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars, by their tags."""
        self._write(
            *(Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()),
            step=step,
        )

    def write_image(self, step: int, tag: str, png: bytes) -> None:
        """Writes an image, a PNG file."""
        width, height = Image.open(io.BytesIO(png)).size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._write(Summary.Value(tag=tag, image=image), step=step)

    def write_histogram(self, step: int, tag: str, values: Float[np.ndarray, "..."]) -> None:
        """Writes a histogram of values, which are all finite."""
        histogram = make_histogram(values.astype(float), _HISTOGRAM_BINS)
        self._write(Summary.Value(tag=tag, histo=histogram), step=step)

    def write_hparams(
        self,
        hparams: dict[str, bool | int | float | str],
        first: Collection[str] = (),
        metrics: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes the hyperparameters of a finished run, for the HParams tab.

        Args:
          hparams: the hyperparameters, by name.
          first: the names of those to show before the others.
          metrics: the scalars to show beside them, as (folder, tag): the folder, in this file's
            folder, of the event files that hold them, and their tag.
        """
        start, done = SessionStartInfo(), SessionEndInfo(status=Status.STATUS_SUCCESS)
        experiment = Experiment()
        for name, each in hparams.items():
            value = ", ".join(map(str, each)) if isinstance(each, list | tuple) else each
            kind = {bool: "bool", str: "string"}.get(type(value), "number")
            setattr(start.hparams[name], f"{kind}_value", value)
            experiment.hparam_infos.add(name=name, type=_DATA_TYPES[kind])
            if name in first:
                experiment.hparam_infos[-1].MergeFromString(_DIFFERS)
        for folder, tag in metrics:
            experiment.metric_infos.add(name=MetricName(group=folder, tag=tag))
        infos = {"experiment": experiment, "session_start_info": start, "session_end_info": done}
        self._write(
            *(
                Summary.Value(tag=f"_hparams_/{tag}", metadata=_plugin_data(**{tag: info}))
                for tag, info in infos.items()
            )
        )

    def close(self) -> None:
        self._records.close()

    def _write(self, *values: Summary.Value, step: int = 0) -> None:
        self._add(step=step, summary=Summary(value=values))
        self._records.flush()

    def _add(self, **fields) -> None:
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())


def _plugin_data(**info: Experiment | SessionStartInfo | SessionEndInfo) -> SummaryMetadata:
    content = HParamsPluginData(version=0, **info).SerializeToString()
    return SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    )
