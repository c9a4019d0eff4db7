"""The paper's network past 99 % in the least time."""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps = 180
    config.batch_size = 64
    config.optimizer = "adam(b1=0.7, b2=0.9)"
    config.learning_rate = 0.005
    config.schedule = "linear"
    config.warmup_steps = 45
    config.label_smoothing = 0.1
    config.dropout_rate = 0.0
    config.curriculum = "hardest(share=0.3, after=54)"
    config.log_every = 20
    config.eval_every = 180
    config.checkpoint_every = 180
    return config
