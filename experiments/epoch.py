"""One epoch of the paper's network on a one-cycle schedule, for comparing optimizers."""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps = 600  # One epoch of 60,000.
    config.optimizer = "sgd(momentum=0.9, nesterov=True)"
    config.learning_rate = 0.15
    config.schedule = "linear"
    config.warmup_steps = 150
    config.eval_every = 600
    config.checkpoint_every = 600
    return config
