"""Event files: what is written is read back as TensorBoard reads it."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import SessionLog

from jaxmnist.record.events import EventFile
from tests.conftest import read_events


@pytest.fixture
def events(tmp_path):
    opened = EventFile(tmp_path, 0)
    yield opened
    opened.close()


def test_scalars(events, tmp_path):
    events.write(3, {"loss": 0.5, "accuracy": 0.75})
    events.write(4, {"loss": 0.25})
    found = [(step, value.tag, value.simple_value) for step, value in read_events(tmp_path)]
    assert found == [(3, "loss", 0.5), (3, "accuracy", 0.75), (4, "loss", 0.25)]


def test_a_histogram_holds_all_values(events, tmp_path):
    values = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    events.write_histogram(1, "weights", values)
    ((step, value),) = read_events(tmp_path)
    histogram = value.histo
    assert (step, value.tag, histogram.num, sum(histogram.bucket)) == (1, "weights", 600, 600)
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    limits = np.array(histogram.bucket_limit)
    for limit, below in zip(limits, np.cumsum(histogram.bucket), strict=True):
        assert abs((values <= limit).sum() - below) <= 1  # A value may lie on the limit.


def test_a_picture(events, tmp_path):
    file = io.BytesIO()
    Image.new("L", (5, 3)).save(file, "PNG")
    events.write_image(2, "picture", file.getvalue())
    ((step, value),) = read_events(tmp_path)
    assert (step, value.image.width, value.image.height) == (2, 5, 3)
    assert value.image.encoded_image_string == file.getvalue()


def test_a_run_that_goes_on_tells_from_where(tmp_path):
    EventFile(tmp_path, 7).close()
    (path,) = tmp_path.iterdir()
    assert SessionLog(status=SessionLog.START).SerializeToString() in path.read_bytes()
