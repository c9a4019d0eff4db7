"""One epoch on a one-cycle schedule, in half a minute on two cores.

Test accuracy 99.03 %, standard deviation 0.10, over seeds 0 to 2.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps = 600  # One epoch of 60,000.
    config.optimizer = "sgd(momentum=0.9, nesterov=True)"
    config.learning_rate = 0.15  # Three times the default's: the warm-up makes it safe.
    config.schedule = "linear"
    config.warmup_steps = 150
    config.log_every = 20
    config.eval_every = 600
    config.checkpoint_every = 600
    return config
