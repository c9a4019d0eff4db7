"""The recipe of the TensorFlow tutorial that the paper follows: plain SGD at 0.001.

Test accuracy 96.97 %, standard deviation 0.12, over 5 seeds (95 % interval 96.81 to 97.12), in 23
minutes on one thread of an AMD EPYC (Zen 4); the paper reports 97.3 %.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.optimizer = "sgd"  # Neither momentum nor a schedule.
    config.learning_rate = 0.001
    config.schedule = "constant"
    return config
