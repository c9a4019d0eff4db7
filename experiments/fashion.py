"""The paper's network on Fashion-MNIST, with mirrored images.

Test accuracy 93.81 %, standard deviation 0.21, over 3 seeds (95 % interval 93.28 to 94.34), which
took 97 s on an NVIDIA H200 beside three other runs.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.dataset = "fashion_mnist"
    config.num_steps, config.batch_size = 12_000, 200
    config.optimizer, config.learning_rate, config.weight_decay = "adam", 0.001, 0.1
    config.warmup_steps = 600
    config.dropout_rate = 0.5
    config.label_smoothing = 0.1
    config.ema_decay = 0.999
    config.augment = "flip"
    config.log_every = 300
    config.eval_every = config.checkpoint_every = 3_000
    return config
