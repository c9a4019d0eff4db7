"""Names with keyword arguments, as texts."""

import pytest

from jaxmnist.calls import parse_call, parse_calls

WRONG = [
    "f(",
    "f(1)",
    "f(a=x)",
    "f(a=1, a=2)",
    "f()()",
    "f(a={[]: 1})",
    "f(a=g())",
    "1",
    "f() + g()",
    "f() g()",
    "__import__('os').system('true')",
    "f(*a)",
    "f(**{'a': x})",
    "\0",
    "f(a=" + "(" * 10_000,
]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("adam", ("adam", {})),
        (" adam() ", ("adam", {})),
        (
            "contrib.muon(beta=0.9, nesterov=True)",
            ("contrib.muon", {"beta": 0.9, "nesterov": True}),
        ),
        ("f(a=-1, b='x', c=(1, 2), d=None)", ("f", {"a": -1, "b": "x", "c": (1, 2), "d": None})),
    ],
)
def test_a_call(text, call):
    assert parse_call(text) == call
    assert parse_calls(text) == [call]


def test_several_calls_keep_their_order():
    expected = [("g", {"b": 2, "a": 1}), ("f", {}), ("g", {})]
    assert parse_calls("g(b=2, a=1), f ,g()") == expected
    assert parse_calls("g(b=2, a=1),\nf,\n g()\n") == expected


@pytest.mark.parametrize("text", ["", "  "])
def test_no_text_is_no_call(text):
    assert parse_calls(text) == []
    with pytest.raises(ValueError, match=r"^\s*$"):
        parse_call(text)


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("parse", [parse_call, parse_calls])
def test_what_is_no_call_is_refused(text, parse):
    with pytest.raises(ValueError):  # noqa: PT011 The callers have the sentences.
        parse(text)


def test_one_call_is_not_two():
    with pytest.raises(ValueError, match=r"f\(\), g\(\)"):
        parse_call("f(), g()")
