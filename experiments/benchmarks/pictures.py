"""Measures predict on digits as people photograph, scan and draw them, in many kinds of pictures.

python -m experiments.benchmarks.pictures --workdir=runs/quick [--kinds=NAME,...] [--n=100]
    [--source=mnist|sklearn] [--folder=DIR] [--show=DIR] [--results=FILE] [--before=FILE]
python -m experiments.benchmarks.pictures --workdir=runs/quick --speed

The pictures are made of MNIST's test digits, or of scikit-learn's 1,797 digits of other writers,
and written as files. Predict reads them as a process of its own, and a table by kind follows. The
n-th picture of every kind has the same digit, and is the same in every run. Needs an
installation with [bench].
"""

import argparse
import dataclasses
import difflib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageOps

from experiments.benchmarks.picture_kinds import GROUPS, KINDS, label, write

FILES_AT_ONCE = 10_000  # A command line has an end.


@dataclasses.dataclass(frozen=True)
class Answer:
    """What predict found: a text such as "42", and how sure it is; "" is no answer.

    Attributes:
      text: the names of the classes in reading order.
      refused: whether there is no answer, or none that is sure.
      some_unsure: whether an answer is unsure.
      confidences: the highest probability of each.
    """

    text: str = ""
    refused: bool = True
    some_unsure: bool = False
    confidences: tuple[float, ...] = ()


def answers(lines: Iterable[str]) -> dict[str, Answer]:
    """What the lines of predict's --json say, by file."""
    found = {}
    for line in lines:
        told = json.loads(line)
        each = told.get("detections", [told] if "class_name" in told else [])
        unsure = ["unsure" in one or "unsure" in told for one in each]
        confidences = tuple(max(one["probabilities"]) for one in each)
        text = "".join(one["class_name"] for one in each)
        found[told["file"]] = Answer(text, all(unsure), any(unsure), confidences)
    return found


def predict(command: list[str], workdir: str, paths: list[Path]) -> dict[str, Answer]:
    """What a predict command answers for pictures; those that it refuses are missing.

    Raises:
      SystemExit: the command failed.
    """
    found = {}
    for start in range(0, len(paths), FILES_AT_ONCE):
        files = [str(path) for path in paths[start : start + FILES_AT_ONCE]]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            done = subprocess.run(
                [*command, "--json", f"--workdir={workdir}", *files],
                stdout=subprocess.PIPE, stderr=errors, text=True, check=False,
            )  # fmt: skip
            errors.seek(0)
            told = errors.read()
        # 1 is its status if one of the pictures was refused, which it tells of by name.
        said = done.stdout or any(name in told for name in files)
        if done.returncode not in (0, 1) or "Traceback" in told or not said:
            sys.exit(f"{shlex.join(command)} failed:\n{told[-2000:]}")
        found |= answers(done.stdout.splitlines())
    return found


def verdict(shown: str, answer: Answer) -> str:
    """ "right", "wrong" or "refused": an answer for a picture that shows these digits, or none."""
    if answer.refused:
        return "refused"
    return "right" if answer.text == shown and not answer.some_unsure else "wrong"


def figures(shown: list[str], found: list[Answer]) -> dict[str, float]:
    """The figures of one kind: n, and shares in %; None is the confidence if nothing was accepted.

    "digits" is the share of the digits that were read in the right order, for numbers.
    """
    verdicts = [verdict(*pair) for pair in zip(shown, found, strict=True)]
    accepted = [a for a, v in zip(found, verdicts, strict=True) if v != "refused"]
    values = [c for answer in accepted for c in answer.confidences]
    result = {"n": len(shown)}
    result |= {name: 100 * verdicts.count(name) / len(shown) for name in _VERDICTS}
    result["confidence"] = float(np.mean(values)) if values else None
    if total := sum(map(len, shown)):
        read = sum(
            block.size
            for text, answer in zip(shown, found, strict=True)
            if not answer.refused
            for block in difflib.SequenceMatcher(
                None, text, answer.text, False
            ).get_matching_blocks()
        )
        result["digits"] = 100 * read / total
    return result


_VERDICTS = ("right", "wrong", "refused")


def summary(kinds: dict[str, dict]) -> dict:
    """The figures over kinds, of `figures` by name; adds "of_clean" to those of one digit."""
    one = [name for name in kinds if KINDS[name].count == 1 and KINDS[name].group != "transfer"]
    numbers = [kinds[name] for name in kinds if KINDS[name].group == "numbers"]
    nothing = [kinds[name] for name in kinds if KINDS[name].group == "nothing"]
    result: dict = {}

    def mean(of: list[dict], name: str) -> float:
        return sum(each[name] * each["n"] for each in of) / sum(each["n"] for each in of)

    if one and kinds.get("clean", {}).get("right"):
        for name in one:
            kinds[name]["of_clean"] = 100 * kinds[name]["right"] / kinds["clean"]["right"]
        shares = {name: kinds[name]["of_clean"] for name in one}
        result["kinds"] = len(one)
        result["mean_of_clean"] = sum(shares.values()) / len(one)
        below = {name: share for name, share in shares.items() if share < 97}
        result["at_97"] = len(one) - len(below)
        result["below_97"] = dict(sorted(below.items(), key=lambda pair: pair[1]))
    if one:
        ours = [kinds[name] for name in one]
        right, wrong = mean(ours, "right"), mean(ours, "wrong")
        result["accepted_right"] = 100 * right / (right + wrong) if right + wrong else None
        result["digits_refused"] = mean(ours, "refused")
    if numbers:
        result["numbers_whole"] = mean(numbers, "right")
        result["numbers_digits"] = sum(each["digits"] for each in numbers) / len(numbers)
    if nothing:
        result["nothing_refused"] = mean(nothing, "refused")
    if "sklearn" in kinds:
        result["transfer"] = kinds["sklearn"]["right"]
    return result


def table(results: dict, before: dict | None = None) -> str:
    """The results in Markdown: a table for each group, and what it comes to."""
    lines = [f"{results['n']:,} pictures of each kind, of {results['source']}'s digits.", ""]
    earlier = before["kinds"] if before else {}
    kinds = results["kinds"]
    for group in dict.fromkeys(KINDS[name].group for name in kinds):
        names = [name for name in kinds if KINDS[name].group == group]
        digits_too = group == "numbers"
        titles = [group, "n", "right %", "wrong %", "refused %", "confidence"]
        titles += ["digits right %" if digits_too else "of clean %"]
        titles += ["before: right %", "refused %"] if before else []
        lines += [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]
        for name in names:
            each = kinds[name]
            shown = [f"{each['n']:,}", *(f"{each[v]:.1f}" for v in _VERDICTS)]
            shown.append(_or_dash(each["confidence"], ".2f"))
            shown.append(_or_dash(each.get("digits" if digits_too else "of_clean"), ".1f"))
            if before:
                old = earlier.get(name, {})
                shown += [_or_dash(old.get(v), ".1f") for v in ("right", "refused")]
            lines.append(f"| {name} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines + _in_words(results, before))


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _in_words(results: dict, before: dict | None) -> list[str]:
    found, old = results["summary"], before["summary"] if before else {}
    lines = []
    texts = {
        "mean_of_clean": "one digit, mean of clean, %",
        "at_97": f"kinds at 97 % of clean or more, of {found.get('kinds')}",
        "accepted_right": "of the accepted answers for one digit, right, %",
        "digits_refused": "of the pictures of one digit, refused, %",
        "numbers_whole": "numbers read whole, %",
        "numbers_digits": "digits in numbers read, %",
        "nothing_refused": "of the pictures without a digit, refused, %",
        "transfer": "scikit-learn's digits, enlarged, right, %",
    }
    for name, text in texts.items():
        if found.get(name) is not None:
            shown = f"{found[name]:.1f}" if isinstance(found[name], float) else str(found[name])
            then = f" (before: {old[name]:.1f})" if old.get(name) is not None else ""
            lines.append(f"- {text}: {shown}{then}")
    if found.get("below_97"):
        below = ", ".join(f"{name} {share:.1f}" for name, share in found["below_97"].items())
        lines.append(f"- below 97 % of clean: {below}")
    if before:
        worse = [f"{name} {a:.1f} to {b:.1f}" for name, (a, b) in fallen(results, before).items()]
        lines.append(f"- fell by more than 1 point from 97 % or more: {', '.join(worse) or 'none'}")
    return lines


def fallen(results: dict, before: dict) -> dict[str, tuple[float, float]]:
    """The kinds of one digit that were right at 97 % or more before, and are so 1 point less."""
    pairs = {
        name: (before["kinds"][name]["right"], each["right"])
        for name, each in results["kinds"].items()
        if KINDS[name].count == 1 and name in before["kinds"]
    }
    return {name: (a, b) for name, (a, b) in pairs.items() if a >= 97 and a - b > 1}


def sheet(cells: list[tuple[Path, str]], across: int = 8, side: int = 150) -> Image.Image:
    """Thumbnails of pictures with a text below each."""
    rows = -(-len(cells) // across)
    whole = Image.new("RGB", (across * side, rows * (side + 14)), "white")
    pencil = ImageDraw.Draw(whole)
    for i, (path, text) in enumerate(cells):
        x, y = i % across * side, i // across * (side + 14)
        small = _thumbnail(path, side - 4)
        whole.paste(small, (x, y))
        pencil.text((x, y + side - 3), text[:28], "black")
    return whole


def _thumbnail(path: Path, side: int) -> Image.Image:
    if path.suffix == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    with Image.open(path) as opened:
        opened.seek(getattr(opened, "n_frames", 1) - 1)
        image = ImageOps.exif_transpose(opened.copy())
    if image.mode.startswith(("I", "F")) or (image.mode == "L" and image.getextrema()[1] < 17):
        values = np.nan_to_num(np.asarray(image, np.float32))
        image = Image.fromarray((255 * values / max(values.max(), 1e-9)).astype(np.uint8))
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return small if max(small.size) >= 60 else small.resize([2 * n for n in small.size])


def show(folder: Path, files: dict[str, list[Path]], found: dict[str, Answer]) -> None:
    """Writes a sheet KIND.png of the pictures that were not read as they should be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, paths in files.items():
        cells = []
        for path in paths:
            answer, shown = found.get(str(path), Answer()), label(path)
            if verdict(shown, answer) == ("right" if shown else "refused"):
                continue
            said = answer.text + (" (unsure)" if answer.some_unsure else "") or "refused"
            cells.append((path, f"{path.name[:4]} {shown or 'none'}: {said}"))
        if cells:
            sheet(cells[:80]).save(folder / f"{name}.png")


def measure(files: dict[str, list[Path]], found: dict[str, Answer]) -> dict[str, dict]:
    """The figures of each kind."""
    return {
        name: figures(
            [label(path) for path in paths], [found.get(str(path), Answer()) for path in paths]
        )
        for name, paths in files.items()
    }


# A process's peak includes that of the process which started it, so a small one has to.
_LAUNCH = """
import pathlib, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(str(peak))
sys.exit(status)
"""


def speed(command: list[str], workdir: str, folder: Path, data_dir: str | None) -> str:
    """How long predict takes for 1,000 photographs of 12 megapixels, and its peak of memory."""
    names = ["photo_12mp", "table_12mp"]
    files = write(folder, names, 10, data_dir=data_dir)
    copies = []
    for copy in range(50):
        (folder / "copies" / str(copy)).mkdir(parents=True, exist_ok=True)
        for path in (path for name in names for path in files[name]):
            target = folder / "copies" / str(copy) / f"{path.parent.name}_{path.name}"
            if not target.exists():
                os.link(path, target)
            copies.append(target)
    start, memory = time.perf_counter(), folder / "memory"
    found = predict([sys.executable, "-c", _LAUNCH, str(memory), *command], workdir, copies)
    seconds, peak = time.perf_counter() - start, int(memory.read_text()) * 1024  # Linux has KiB.
    return (
        f"{len(copies):,} photographs of 12 megapixels: {seconds:.0f} s, at most "
        f"{peak / 1e9:.2f} GB of memory; {len(found):,} answered."
    )


def chosen(text: str) -> list[str]:
    """The kinds that a list of kinds and groups names; "clean" is always with those of one digit.

    Raises:
      SystemExit: there is no such kind or group.
    """
    names: list[str] = []
    for word in filter(None, text.split(",")):
        within = [name for name, kind in KINDS.items() if word in (name, kind.group)]
        if not within:
            sys.exit(f"error: no kind or group {word!r}; groups: {', '.join(GROUPS)}; kinds: "
                     f"{', '.join(KINDS)}")  # fmt: skip
        names += within
    if any(KINDS[name].count == 1 and not KINDS[name].source for name in names):
        names.insert(0, "clean")
    if not text:
        names = list(KINDS)
        if not importlib.util.find_spec("sklearn"):
            names.remove("sklearn")
            print("the kind sklearn is left out: scikit-learn is not installed", file=sys.stderr)
    return list(dict.fromkeys(names))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the run whose network predicts")
    parser.add_argument("--kinds", default="", help="kinds and groups, with commas; all if empty")
    parser.add_argument("--n", type=int, default=100, help="pictures of each kind")
    parser.add_argument("--source", default="mnist", choices=["mnist", "sklearn"])
    parser.add_argument("--seed", type=int, default=0, help="of the digits and of all choices")
    parser.add_argument("--folder", type=Path, help="where the pictures are kept, and looked for")
    parser.add_argument("--data_dir", help="tfds's folder, with MNIST prepared")
    parser.add_argument("--predict", default="jaxmnist predict", help="the command to measure")
    parser.add_argument("--show", type=Path, help="a folder for sheets of what was not read")
    parser.add_argument("--results", type=Path, help="a JSON file for the figures")
    parser.add_argument("--before", type=Path, help="a JSON file of --results to compare with")
    parser.add_argument("--speed", action="store_true", help="time 1,000 large photographs instead")
    args = parser.parse_args(argv)

    command, names = shlex.split(args.predict), chosen(args.kinds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.speed:
            print(speed(command, args.workdir, folder, args.data_dir))
            return
        files = write(folder, names, args.n, args.source, args.seed, args.data_dir)
        found = predict(command, args.workdir, [p for paths in files.values() for p in paths])
        kinds = measure(files, found)
        if args.show:
            show(args.show, files, found)
    results = {"n": args.n, "source": args.source, "summary": summary(kinds), "kinds": kinds}
    before = json.loads(args.before.read_text(encoding="utf-8")) if args.before else None
    print(table(results, before))
    if args.results:
        args.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
