"""The paper's network past 99 % in the least time: a fifth of an epoch.

Test accuracy 99.16 %, standard deviation 0.07, over 20 seeds (95 % interval 99.12 to 99.19; 19 are
above 99.0), in 11 s on two threads of an AMD EPYC (Zen 4), 17 s the first time.
"""

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
