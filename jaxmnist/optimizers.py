"""From the config's words to an optax schedule and an optax optimizer."""

import ast
import difflib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxmnist.errors import UserError

DECAYS = ("constant", "linear", "cosine")


def create_schedule(config: ConfigDict) -> optax.Schedule:
    """Learning rate by step: a linear warm-up from 0, then `schedule` down to 0 at the end."""
    warmup, rest = config.warmup_steps, max(config.num_steps - config.warmup_steps, 1)
    decay = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "linear": lambda: optax.linear_schedule(config.learning_rate, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(config.learning_rate, rest),
    }[config.schedule]()
    if not warmup:
        return decay
    ramp = optax.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.join_schedules([ramp, decay], [warmup])


def create_optimizer(
    expression: str, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    """The optimizer that `expression` names, such as "adamw(b1=0.95, weight_decay=1e-4)".

    Args:
      expression: any optimizer of optax ("adam", "contrib.muon"), with its keyword arguments
        as Python literals.
      learning_rate: passed on as its `learning_rate`; polyak_sgd alone has none.

    Raises:
      UserError: no such optimizer, or arguments that it refuses.
    """
    where = f"optimizer={expression!r}"
    name, kwargs = _parse(expression)
    factory = _optimizers().get(name)
    if factory is None:
        near = difflib.get_close_matches(name, _optimizers(), n=3) or ["sgd", "adam", "adamw"]
        raise UserError(f"{where}: optax has no optimizer {name!r}; near it: {', '.join(near)}.")
    parameters = inspect.signature(factory).parameters
    allowed = [p for p in parameters if p != "learning_rate"]
    for argument in kwargs:
        if argument not in allowed:
            raise UserError(f"{where}: {name} takes {', '.join(allowed)}, not {argument!r}.")
    try:
        # Extra arguments, so that optimizers that look at the loss (polyak_sgd, lbfgs) work too.
        if "learning_rate" in parameters:
            kwargs["learning_rate"] = learning_rate
        tx = optax.with_extra_args_support(factory(**kwargs))
        jax.eval_shape(_try_step(tx), {"kernel": jnp.zeros((2, 2))})
    except Exception as e:
        first_line = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"{where}: optax refuses it: {first_line}") from e
    return tx


def _parse(expression: str) -> tuple[str, dict]:
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if call.args or not isinstance(call.func, ast.Name | ast.Attribute):
            raise ValueError(expression)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise UserError(
            f"optimizer={expression!r} is not a name with keyword arguments, "
            'such as "sgd(momentum=0.9)" or "adam".'
        ) from None
    return ast.unparse(call.func), kwargs


def _optimizers() -> dict[str, Callable]:
    """Every function of optax and optax.contrib that takes a learning rate of some kind."""
    found: dict[str, Callable] = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(("_", "scale_by_")):
                continue
            if any("learning_rate" in p for p in inspect.signature(function).parameters):
                found[prefix + name] = function
    return found


def _try_step(tx: optax.GradientTransformationExtraArgs) -> Callable:
    def step(params):
        def loss(p):
            return sum(jnp.sum(x) for x in jax.tree.leaves(p))

        value, grad = jax.value_and_grad(loss)(params)
        return tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=loss)

    return step
