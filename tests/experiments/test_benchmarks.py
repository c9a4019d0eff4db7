"""The benchmarks: what they refuse, and how they say what they measured."""

import os
import sys
import time

import jax
import numpy as np
import pytest

from experiments.benchmarks import accelerator, contenders, step_speed, whole_command
from jaxmnist.devices import machine


class Fake:
    """What answers as a worker does."""

    def __init__(self, change=lambda array: array):
        rng = np.random.default_rng(0)
        self.grads = {name: change(rng.normal(size=(30, 20))) for name in ("kernel", "bias")}

    def call(self, method, *args):
        return (2.3, self.grads) if method == "loss_and_gradients" else (2.3, 0.1)


def rounded(bits):
    return lambda array: array * (1 + 2.0**-bits * np.sign(np.sin(1e6 * array)))


@pytest.mark.parametrize(
    ("dtype", "change", "is_refused"),
    [
        ("float32", rounded(20), False),
        ("float32", rounded(8), True),
        ("bfloat16", rounded(5), False),
        ("bfloat16", rounded(3), True),
        ("bfloat16", lambda array: 1.2 * array, True),
        ("bfloat16", lambda array: array[::-1], True),
    ],
)
def test_what_computes_something_else_is_refused(dtype, change, is_refused):
    found = step_speed.disagreement(Fake(change), Fake(), dtype, (None, None))
    assert (found >= step_speed.TOLERANCES[dtype]) == is_refused


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's layers")
def test_our_contenders_compute_what_plain_jax_does(monkeypatch):
    monkeypatch.setattr(machine, "has_bfloat16_units", lambda: True)
    problem = step_speed.make_problem(0.9, 20)
    expected_loss, expected = contenders.Plain(problem).loss_and_gradients(
        problem.images, problem.labels
    )
    loss, grads = contenders.OursBfloat16(problem).loss_and_gradients(
        problem.images, problem.labels
    )
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert grads.keys() == expected.keys()
    errors = [
        np.linalg.norm(grad - expected[name]) / np.linalg.norm(expected[name])
        for name, grad in grads.items()
    ]
    assert 1e-4 < max(errors) < step_speed.TOLERANCES["bfloat16"]


class Subject:
    def __init__(self, fails=False):
        if fails:
            raise ValueError("no such unit\nmore")

    def answer(self):
        return 42

    def sleep(self):
        time.sleep(60)

    def end(self):
        os._exit(1)


def test_a_worker_answers_and_is_refused_alone():
    worker = step_speed.Worker(Subject)
    assert worker.call("answer") == 42
    assert len(worker.call("time", "answer", 3, 10.0)) == 3
    worker.close()
    with pytest.raises(step_speed.Refused, match="ValueError: no such unit"):
        step_speed.Worker(Subject, True)


@pytest.mark.parametrize(("method", "why"), [("sleep", "more than 3 s"), ("end", "ended")])
def test_a_worker_that_does_not_answer_is_refused(method, why):
    worker = step_speed.Worker(Subject)
    worker.patience = 3
    with pytest.raises(step_speed.Refused, match=why):
        worker.call(method)
    worker.close()


def test_a_turn_ends_in_time_but_measures_once():
    assert len(step_speed._time(lambda: None, 5, 10.0)) == 5
    assert len(step_speed._time(lambda: time.sleep(0.01), 100, 0.02)) < 10
    assert len(step_speed._time(lambda: None, 5, 0.0)) == 1


def test_units_are_named():
    assert step_speed.units("fpu avx2 avx512f amx_bf16 fma") == ["avx2", "avx512f", "amx_bf16"]
    assert step_speed.units("") == []


def test_the_table_compares_with_ours_in_the_same_type():
    times = {name: step_speed.Times() for name in ("ours", "TensorFlow", "TensorFlow bfloat16")}
    for each, seconds in zip(times.values(), (0.02, 0.04, 0.01), strict=True):
        each.steps, each.evaluations = [seconds] * 3, {200: [1.0], 100: [2.0]}
    rates = {"float32": 100.0, "bfloat16": 1000.0}
    rows = step_speed.rows(
        times, dict.fromkeys(times, 1e-6), dict.fromkeys(times, 2**30), rates, gflop=1.0
    )
    assert rows["TensorFlow"]["step"]["ours_takes"] == 0.5
    assert rows["TensorFlow"]["evaluation"]["batch_size"] == 200
    assert rows["TensorFlow bfloat16"]["step"]["ours_takes"] is None  # Ours was not timed.
    assert rows["TensorFlow bfloat16"]["fraction_of_machine"] == pytest.approx(0.1)
    text = step_speed.table(
        {
            "contenders": rows,
            "machine_gflops": rates,
            "units": ["avx2", "amx_bf16"],
            "device": {"processor": "P", "threads": 2},
            **{"momentum": 0.9, "batch_size": 100, "rounds": 1, "steps": 3, "neighbour": True},
        }
    )
    assert text.startswith(
        "P, 2 threads, avx2, amx_bf16. A product of matrices runs at 100 GFLOP/s in float32, at "
        "1000 in bfloat16."
    )
    assert "another process streams memory" in text
    assert "| TensorFlow | 40.0 (40.0 to 40.0) | 25 | 0.25 | 0.50 |" in text
    assert len({line.count("|") for line in text.splitlines()[2:]}) == 1


def test_the_table_of_whole_commands():
    def runs(whole, train):
        return [
            {"whole": w, "train": t, "accuracy": 0.99 + i / 1000}
            for i, (w, t) in enumerate(zip(whole, train, strict=True))
        ]

    text = whole_command.table(
        {
            "commands": {
                "quick.py, cached": runs([10, 12, 14], [5, 6, 7]),
                whole_command.PEER: runs([24, 24, 30], [12, 12, 13]),
            },
            "device": {"processor": "P", "threads": 2},
            "date": "2026-01-02",
        }
    )
    assert text.startswith("P, 2 threads; 3 rounds; 2026-01-02.")
    row = "| quick.py, cached | 12.0 (10.0 to 14.0) | 0.50 | 6.0 (5.0 to 7.0) | 0.50 | 99.10 ("
    assert row in text


def test_the_forms_of_the_step_have_names_of_their_own():
    forms = accelerator.forms()
    assert len({form.name for form in forms}) == len(forms)
    assert {form.unroll for form in forms if form.scanned} == {1, 2, 4, 8, 16}
    assert {form.bound for form in forms} == set(accelerator.LOSS_BOUNDS)


def test_a_table_of_the_accelerator_has_what_failed():
    rows = [
        {"name": "device", "kind": "cpu"},
        {"name": "a", "ms_a_step": 0.25, "seconds": {"train": 1234.5}, "within_bound": False},
        {"name": "b", "error": "RuntimeError: no GPU"},
    ]
    columns = {"ms_a_step": "ms", "seconds.train": "s", "within_bound": "ok", "loss": "loss"}
    assert accelerator.table(columns, rows).splitlines() == [
        "| | ms | s | ok | loss |",
        "|---|---|---|---|---|",
        "| a | 0.25 | 1,234 | no |  |",
        "| b | RuntimeError: no GPU |",
    ]


def test_a_section_is_ended_at_its_limit(monkeypatch, capsys):
    """And what it printed before is kept."""
    program = 'import time; print(\'{"name": "first"}\', flush=True); time.sleep(60)'
    popen = accelerator.subprocess.Popen

    def start(command, **kwargs):
        return popen([sys.executable, "-c", program], **kwargs)

    monkeypatch.setattr(accelerator.subprocess, "Popen", start)
    rows = []
    accelerator.run_section("steps", [], 2.0, rows.append)
    assert rows == [{"name": "first"}]
    assert "steps: ended after 2 s" in capsys.readouterr().err
