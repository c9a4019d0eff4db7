"""The config's texts that are names with keyword arguments, such as "sgd(momentum=0.9)"."""

import ast
from typing import Any


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of one call, such as "contrib.muon(beta=0.9)" or "adam".

    Arguments are Python literals; nothing is executed.

    Raises:
      ValueError: it is no name with keyword arguments.
    """
    return _call(_parse(text))


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Those of several calls, with commas between them; none in an empty text.

    Raises:
      ValueError: as parse_call.
    """
    if not text.strip():
        return []
    tree = _parse(text)
    return [_call(each) for each in (tree.elts if isinstance(tree, ast.Tuple) else [tree])]


def _parse(text: str) -> ast.expr:
    try:
        # A long text may be broken on the command line; in Python it would need brackets there.
        return ast.parse(text.strip().replace("\n", " "), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as e:  # The latter two: nested too deeply.
        raise ValueError(text) from e


def _call(tree: ast.expr) -> tuple[str, dict[str, Any]]:
    call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    if call.args or not isinstance(call.func, ast.Name | ast.Attribute):
        raise ValueError(ast.unparse(tree))
    try:
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except TypeError as e:  # Such as {[]: 1}, whose key is a list.
        raise ValueError(ast.unparse(tree)) from e
    if len(kwargs) < len(call.keywords):  # One is given twice.
        raise ValueError(ast.unparse(tree))
    return ast.unparse(call.func), kwargs
