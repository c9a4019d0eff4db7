"""The package as a whole: what importing a module loads, and that each has its test."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmnist
from jaxmnist import cli

PACKAGE, TESTS = Path(jaxmnist.__file__).parent, Path(__file__).parent
VERBS = {f"jaxmnist.{module}" for module, _ in cli.VERBS.values()}


def loaded_by(module):
    """All modules that a fresh process has loaded once it has imported one."""
    program = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


@pytest.mark.parametrize("module", sorted(VERBS))
def test_a_verb_loads_no_other_verb_and_nothing_that_takes_long(module):
    """So a mistyped flag is told of at once."""
    loaded = loaded_by(module)
    assert loaded & VERBS == {module}
    assert loaded & {"jax", "numpy", "PIL"} == set()


def test_no_module_imports_a_verb():
    """Not in its functions either: what verbs share is in cli.py, or below."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {node.module, *(f"{node.module}.{name}" for name in names)}
            assert names & VERBS == set(), path


@pytest.mark.parametrize(("module", "allowed"), [("train_step", 7), ("config", 0)])
def test_the_core_loads_little(module, allowed):
    loaded = loaded_by(f"jaxmnist.{module}")
    ours = {name for name in loaded if name.startswith("jaxmnist.")} - {f"jaxmnist.{module}"}
    assert len(ours) <= allowed, ours
    assert loaded & {"orbax", "tensorflow_datasets", "PIL"} == set()


def test_training_loads_nothing_that_its_first_step_does_not_need():
    """orbax and tfds take a third of a second each, requests a tenth."""
    loaded = loaded_by("jaxmnist.train")
    slow = {"orbax", "tensorstore", "tensorflow_datasets", "requests", "tensorboardX", "scipy"}
    assert loaded & slow == set()


def test_tests_mirror_the_package():
    """tests/X/test_Y.py for each jaxmnist/X/Y.py, and the other way round."""
    modules = {
        path.relative_to(PACKAGE).with_name(f"test_{path.name}")
        for path in PACKAGE.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    }
    tests = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    tests -= {Path("test_init.py"), Path("test_readme.py")}  # Of the package, and of the README.
    tests = {path for path in tests if path.parts[0] != "experiments"}  # Of that folder.
    assert {str(path) for path in modules - tests} == set(), "modules without a test"
    assert {str(path) for path in tests - modules} == set(), "tests without a module"
