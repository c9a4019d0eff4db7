"""What a run says never fails it; what others' errors say fits in a sentence."""

import errno
import io
import sys

import pytest

from jaxmnist import errors
from tests.conftest import unwritable


@pytest.mark.parametrize(
    ("message", "expected", "typed"),
    [
        ("one\ntwo", "one", "ValueError: one"),
        ("\n  one", "one", "ValueError: one"),
        ("", "ValueError", "ValueError"),
        ("\n", "ValueError", "ValueError"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(message, expected, typed):
    assert errors.first_line(ValueError(message)) == expected
    assert errors.first_line(ValueError(message), with_type=True) == typed


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_cannot_be_written_is_lost(name, monkeypatch):
    write = {"stdout": errors.say, "stderr": errors.warn}[name]
    output = errors.Output(lambda: getattr(sys, name))
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, unwritable(), unwritable(errno.EPIPE)):
        monkeypatch.setattr(sys, name, stream)
        write("lost")
        output.has_lost = False
        print("lost", file=output, flush=True)
        assert output.has_lost
        assert not output.isatty()
    monkeypatch.setattr(sys, name, io.StringIO())
    write("seen")
    assert getattr(sys, name).getvalue() == "seen\n"


def test_what_cannot_be_encoded_is_replaced(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="koi8-r"))
    errors.say("0.5 ± 0.1 \udcff")
    assert raw.getvalue() == b"0.5 ? 0.1 ?\n"


def test_a_file_s_name_that_is_no_text_keeps_its_bytes():
    assert "±é\udcff\udcfea".encode("ascii", errors.REPLACE) == b"??\xff\xfea"
