"""A network of one's own: a linen module in a file that the config names.

`model="my_net.py:Net(width=64)"` is a class in a file, with keyword arguments as Python literals.
Once the file was read, the config has "my_net.py@HASH:Net(width=64)", of which HASH is the start of
the SHA-256 of the file's text. A workdir keeps the text, so that what was trained can be loaded.
The text of a workdir is run only if this user trained with it on this machine, or says that it may.
"""

import ast
import functools
import hashlib
import inspect
import linecache
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import platformdirs

from jaxmnist.calls import parse_call
from jaxmnist.errors import UserError, first_line
from jaxmnist.files import local_path

if TYPE_CHECKING:
    from flax import linen as nn

_FORM = re.compile(r"(?P<file>.+?\.py)(?:@(?P<hash>[0-9a-f]{16}))?:(?P<call>.+)", re.DOTALL)


class _Code(NamedTuple):
    text: str
    where: str


# By hash, so that nothing here goes out of date: the texts that this process has read, and which
# of them it may run.
_codes: dict[str, _Code] = {}
_trusted: set[str] = set()
_EVERY = "every"


def read(model: str) -> str:
    """Reads the file that a config names, which the user trusts thereby; returns it with its hash.

    Without a file, as for the paper's network, or with a hash, `model` is returned as it is.

    Raises:
      UserError: it has another form, or the file cannot be read.
    """
    if not model or _parts(model)["hash"]:
        return model
    parts = _parts(model)
    path = local_path(parts["file"], "model", as_pattern=False)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"model={model!r}: there is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"model={model!r}: {path} cannot be read ({first_line(e)}).") from None
    key = keep(text, str(path))
    _trust(key)
    return f"{path.name}@{key}:{parts['call']}"


def keep(text: str, where: str) -> str:
    """Remembers a file's text for `create`; returns its hash.

    Args:
      text: the text.
      where: where it is, for messages.
    """
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    if _codes.setdefault(key, _Code(text, where)).text != text:  # Nothing but an attack does that.
        raise UserError(f"{where} has the hash of {_codes[key].where}, and another content.")
    return key


def code(model: str) -> str:
    """The text of a network's file, which `read` or `keep` has read; "" for the paper's network."""
    return _code(model).text if model else ""


def file_name(model: str) -> str:
    """The name of a network's file, without its folder; "" for the paper's network."""
    return Path(_parts(model)["file"]).name if model else ""


def load_from(folder: Path, model: str) -> None:
    """Reads the text that a workdir keeps of a network, without running it.

    Raises:
      UserError: it is not there, or is not what was trained.
    """
    if not model:
        return
    path = folder / file_name(model)
    try:
        key = keep(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            f"{path}, the network that was trained, cannot be read ({first_line(e)}): put it back."
        ) from None
    if key != _parts(model)["hash"]:
        raise UserError(
            f"{path} is not the network that was trained: undo the change, and try another network "
            "from another file, in another workdir."
        )


def same(one: str, other: str) -> bool:
    """Whether two networks are the same call of the same code, comments and blank lines apart."""
    if not (one and other):
        return one == other
    calls = [_parse(model) for model in (one, other)]
    trees = [ast.dump(_tree(model)) for model in (one, other)]
    return calls[0] == calls[1] and trees[0] == trees[1]


def share(model: str, from_first: Callable[[Callable[[], str]], str]) -> None:
    """Gives the code of process 0, if that may run it, to the others.

    Args:
      model: the config's, the same in all processes.
      from_first: distributed.from_first.
    """
    if model:
        text = from_first(lambda: _allowed(model).text)
        _trust(keep(text, file_name(model)))


def is_changed(one: str, other: str) -> bool:
    """Whether two networks are the same call of files of one name and another content."""
    return bool(one and other) and one != other and _without_hash(one) == _without_hash(other)


def _without_hash(model: str) -> tuple[str, str]:
    return file_name(model), _parts(model)["call"]


def trust(model: str) -> None:
    """Lets a network's code, which `load_from` has read, be run, now and later."""
    if model:
        _trust(_parts(model)["hash"])


def trust_every() -> None:
    """Lets this process run the networks of all workdirs that it loads."""
    _trusted.add(_EVERY)


def create(model: str, **given: Any) -> "nn.Module":
    """The linen module that a config names.

    Args:
      model: the config's.
      given: arguments that it gets where its class has such fields and the config does not set
        them: "num_classes", for example.

    Raises:
      UserError: its code fails, may not be run, or has no such module or argument.
    """
    from flax import linen as nn

    model = read(model)
    name, kwargs = _parse(model)
    found = getattr(_run(model), name, None)
    where = f"model={model!r}"
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise UserError(f"{where}: the file has no linen module {name!r}.")
    allowed = [field for field in found.__dataclass_fields__ if field not in ("parent", "name")]
    for argument in kwargs:
        if argument not in allowed:
            takes = ", ".join(allowed) or "no arguments"
            raise UserError(f"{where}: {name} takes {takes}, not {argument!r}.")
    given = {field: value for field, value in given.items() if field in allowed}
    try:
        module = found(**{**given, **kwargs})
        hash(module)  # Runs of equal networks share what is compiled.
        return module
    except (Exception, SystemExit) as e:
        raise UserError(f"{where}: it fails with {first_line(e, with_type=True)}") from e


def _parts(model: str) -> dict[str, str]:
    match = _FORM.fullmatch(model)
    if match is None:
        raise UserError(
            f"model={model!r} is not a file and a linen module in it, with keyword arguments if "
            "need be, such as my_net.py:Net(width=64)."
        )
    return match.groupdict()


def _parse(model: str) -> tuple[str, dict[str, Any]]:
    """The name of the class, and its arguments; lists become tuples, which can be hashed."""
    text = _parts(model)["call"]
    try:
        name, kwargs = parse_call(text)
        if not name.isidentifier():
            raise ValueError(text)
    except ValueError:
        raise UserError(
            f"model={model!r}: {text!r} is not a name with keyword arguments, such as "
            "Net(width=64)."
        ) from None
    return name, {argument: _hashable(value) for argument, value in kwargs.items()}


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _tree(model: str) -> ast.Module:
    try:
        return ast.parse(code(model))
    except SyntaxError as e:
        raise UserError(f"model={model!r}: line {e.lineno}: {e.msg}.") from None


def _run(model: str) -> types.ModuleType:
    _allowed(model)
    try:
        return _module(_parts(model)["hash"])
    except (Exception, SystemExit) as e:
        raise UserError(f"model={model!r}: it fails with {first_line(e, with_type=True)}") from e


def _code(model: str) -> _Code:
    """A code that was read; raises UserError if no file has shown it."""
    found = _codes.get(_parts(model)["hash"])
    if found is None:
        raise UserError(
            f"model={model!r}: no file of that content was read: name the file alone, as in "
            f"{file_name(model)}:{_parts(model)['call']}."
        )
    return found


def _allowed(model: str) -> _Code:
    """A code that may be run; raises UserError for others."""
    key, code = _parts(model)["hash"], _code(model)
    if not (_trusted & {_EVERY, key} or _trust_file(key).exists()):
        raise UserError(
            f"{code.where} is code that was not trained with here: read it, and if you trust it, "
            "run this again with --trust_code."
        )
    _trust(key)
    return code


@functools.cache  # Runs of one network share its class, and thereby what is compiled for it.
def _module(key: str) -> types.ModuleType:
    text, where = _codes[key]
    module = types.ModuleType(f"jaxmnist_model_{key}")
    module.__file__ = where
    # dataclasses look for their module there, and tracebacks for its lines.
    sys.modules[module.__name__] = module
    linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)
    try:
        exec(compile(text, where, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _trust(key: str) -> None:
    """Remembers, beyond this process where that is possible, that a text may be run."""
    if key in _trusted:
        return
    _trusted.add(key)
    try:
        _trust_file(key).parent.mkdir(parents=True, exist_ok=True)
        _trust_file(key).touch()
    except OSError:  # A home that cannot be written: it is asked for again.
        pass


def _trust_file(key: str) -> Path:
    # All of the hash: the start of one can be imitated.
    whole = hashlib.sha256(_codes[key].text.encode()).hexdigest()
    return Path(platformdirs.user_state_dir("jaxmnist")) / "trusted_code" / whole
