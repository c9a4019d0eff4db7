"""The paper's network at its most accurate on the images as they are.

Test accuracy 99.54 %, standard deviation 0.01, over 5 seeds (95 % interval 99.53 to 99.55), which
took 135 s on an NVIDIA H200 beside three other runs.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps, config.batch_size = 12_000, 200
    config.optimizer, config.learning_rate, config.weight_decay = "adam", 0.001, 0.2
    config.warmup_steps = 600
    config.dropout_rate = 0.5
    config.label_smoothing = 0.2
    config.ema_decay = 0.999
    config.log_every = 300
    config.eval_every = config.checkpoint_every = 3_000
    return config
