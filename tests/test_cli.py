"""The door: the verbs, their help, what is told of a mistyped flag, and the shell's completion."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import jaxmnist
from jaxmnist import cli, config_help, errors
from jaxmnist import config as config_lib
from jaxmnist import main as main_lib

PACKAGE = Path(jaxmnist.__file__).parent
README = Path(__file__).parent.parent / "README.md"


def test_without_a_verb_a_page_that_fits_a_screen(capsys):
    for argv in ([], ["--help"], ["help"]):
        assert cli.main(argv) == 0
        page = capsys.readouterr().out
        lines = page.splitlines()
        assert len(lines) <= 23
        assert max(len(line) for line in lines if "README.md" not in line) <= 67
        assert all(re.search(f"^  {verb} +[a-z]", page, re.MULTILINE) for verb in cli.VERBS)
        assert page.count("  jaxmnist ") == 3
        assert "README.md" in page


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxmnist {jaxmnist.__version__}\n"


def test_a_verb_that_there_is_not(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == "jaxmnist: there is no verb 'trian'; did you mean train?\n"
    assert cli.main(["x"]) == 2
    assert "the verbs are train, eval, predict, " in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: jaxmnist {verb} [-h]")


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_the_help_of_train_lists_every_field_once_and_the_experiments(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    _, _, table = text.partition("fields of the config, --config.FIELD=VALUE:")
    assert max(map(len, table.splitlines())) <= columns
    words = " ".join(table.split())
    for group, fields in config_lib.FIELDS.items():
        assert f" {group}: {next(iter(fields))} " in f" {words}"
        for name, field in fields.items():
            assert len(re.findall(rf"^  {name} ", table, re.MULTILINE)) == 1
            assert f"{field.meaning}" in words
            assert field.allowed in words
            assert f"(default: {field.default!r})" in words
    assert "quick.py: The paper's network past 99 % in the least time" in words
    assert "tutorial.py: The recipe of the TensorFlow tutorial" in words


def test_the_list_in_the_readme_is_that_of_the_help():
    assert f"```text\n{config_help.describe_fields()}\n```\n" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--learning_rate=0.1", "; did you mean --config.learning_rate?"),
        ("--batch-size=5", "; did you mean --config.batch_size?"),
        ("--wrkdir=x", "; did you mean --workdir?"),
        ("--config.lerning_rate=0.1", "; did you mean --config.learning_rate?"),
        ("--num_step=4", "; did you mean --config.num_steps?"),
        ("--dryrun", "; did you mean --dry_run?"),
        ("--lr=1", ""),
        ("--config.lr=1", ""),
    ],
)
@pytest.mark.parametrize("before", [[], ["--workdir=x"]])
def test_a_mistyped_flag(flag, hint, before, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *before, flag])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    name = flag.partition("=")[0]
    assert said == f"jaxmnist train: error: unrecognized argument: {name}{hint}"


def test_the_help_of_eval_lists_what_it_uses(capsys):
    with pytest.raises(SystemExit):
        cli.main(["help", "eval"])
    text = capsys.readouterr().out
    for name in ("eval_split", "dtype", "data_dir"):
        assert re.search(f"^  {name} ", text, re.MULTILINE)
    assert "learning_rate" not in text


def test_fields_are_kept_in_their_order():
    args = main_lib.parser("train").parse_args(
        ["--workdir=x", "--config.seed=3", "--config.batch_size", "-5", "--config.seed=4"]
    )
    assert args.config_fields == [("seed", "3"), ("batch_size", "-5"), ("seed", "4")]
    assert main_lib.parser("train").parse_args(["--workdir=x"]).config_fields == []


def run(*args, **env):
    """A command of Python's."""
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=120, env=os.environ | env
    )


def test_the_commands_as_processes(tmp_path):
    """The console script, and the package and its modules as `python -m` finds them."""
    script = Path(sys.executable).with_name("jaxmnist")
    found = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, f"jaxmnist {jaxmnist.__version__}\n")
    found = run("-m", "jaxmnist", "eval", f"--workdir={tmp_path}/W")
    assert found.returncode == 1
    assert f"error: {tmp_path}/W holds no run to evaluate" in found.stderr
    for module, door in {
        "train": "type python -m jaxmnist train",
        "data.idx": "python -m jaxmnist lists them",
    }.items():
        found = run("-m", f"jaxmnist.{module}")
        said = f"jaxmnist.{module} is not a command: {door}.\n"
        assert (found.returncode, found.stderr) == (1, said)


@pytest.mark.parametrize(
    "path", [path for path in sorted(PACKAGE.rglob("*.py")) if path.stem != "__init__"]
)
def test_no_module_ends_silently(path):
    """Each is a command, or says that it is none."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    argv = ["python", "-X", "dev", "-m", name]
    if "sys.exit(main())" in path.read_text(encoding="utf-8"):
        cli.refuse_modules_without_a_command(argv)
        return
    with pytest.raises(SystemExit, match=f"{name} is not a command"):
        cli.refuse_modules_without_a_command(argv)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("jaxmnist tr", {"train"}),
        ("jaxmnist train --work", {"--workdir"}),
        ("jaxmnist train --config.learn", {"--config.learning_rate"}),
        ("jaxmnist train --config.dataset=fa", {"fashion_mnist"}),
        ("jaxmnist train --config.dtype b", {"bfloat16"}),
        ("jaxmnist sweep --sweep.sch", {"--sweep.schedule"}),
        ("jaxmnist export --format=", {"onnx", "stablehlo"}),
    ],
)
def test_completion(line, wanted, tmp_path):
    """As the function that argcomplete registers in bash and zsh asks the command."""
    answer = tmp_path / "answer"
    env = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    env |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    env |= {"_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:", "_ARGCOMPLETE_SHELL": "bash"}
    found = run("-m", "jaxmnist", **env)
    assert found.returncode == 0, found.stderr
    assert {word.strip() for word in answer.read_text().split("\n")} == wanted


def test_what_is_registered_for_the_end_learns_how_a_command_ended(monkeypatch):
    ends = []
    monkeypatch.setattr(cli, "at_end", [lambda status, words: ends.append((status, words))])
    assert cli.run(lambda: None) == 0
    assert cli.run(Mock(side_effect=errors.UserError("make room."))) == 1
    assert cli.run(Mock(side_effect=SystemExit(3))) == 3
    with pytest.raises(ZeroDivisionError):
        cli.run(Mock(side_effect=ZeroDivisionError("by 0")))
    *quiet, (status, words) = ends
    assert quiet == [(0, ""), (1, ""), (3, "")]
    assert (status, words[-24:]) == (1, "ZeroDivisionError: by 0\n")


def test_a_finished_process_is_not_searched_for_what_is_unreachable():
    """Of the million objects of a command that takes most of a second."""
    program = """
from jaxmnist import cli
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        print("found")
cli.run(lambda: None)
cli.run(Cycle)
"""
    assert subprocess.check_output([sys.executable, "-c", program]) == b""


def test_a_command_that_can_be_pasted(monkeypatch, tmp_path):
    python, script = tmp_path / "bin/python", tmp_path / "bin/jaxmnist"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("shutil.which", lambda name: str(script))
    pasted = cli.command("predict", "--workdir=a b", "x.png")
    assert pasted == "jaxmnist predict '--workdir=a b' x.png"
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert cli.command("runs") == "bin/python -m jaxmnist runs"
    python.parent.mkdir()
    script.touch()
    assert cli.command("runs") == "bin/jaxmnist runs"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.command("runs") == f"{script} runs"
