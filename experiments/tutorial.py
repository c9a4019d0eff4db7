"""The recipe of the TensorFlow tutorial that the paper follows: plain SGD at 0.001.

Test accuracy 96.91 % with seed 0; the paper reports 97.3 %.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.optimizer = "sgd"  # Neither momentum nor a schedule.
    config.learning_rate = 0.001
    config.schedule = "constant"
    return config
