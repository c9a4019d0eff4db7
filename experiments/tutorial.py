"""The recipe of the TensorFlow tutorial that the paper follows: plain SGD at 0.001."""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.optimizer = "sgd"  # Neither momentum nor a schedule.
    config.learning_rate = 0.001
    config.schedule = "constant"
    return config
