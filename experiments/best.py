"""The paper's network, unchanged, at its most accurate: 40 epochs of varied images.

Test accuracy 99.63 %, standard deviation 0.04, over 10 seeds (95 % interval 99.60 to 99.66; the
lowest is 99.57), which took 151 s on an NVIDIA H200 beside plain.py and fashion.py.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps, config.batch_size = 12_000, 200
    config.optimizer, config.learning_rate, config.weight_decay = "adam", 0.002, 0.2
    config.warmup_steps = 600
    config.dropout_rate = 0.5
    config.ema_decay = 0.999
    config.augment = "distort, corrupt"
    config.log_every = 300
    config.eval_every = config.checkpoint_every = 3_000
    return config
