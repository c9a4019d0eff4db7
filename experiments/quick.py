"""The paper's network past 99 % in the least time: a sixth of an epoch.

Test accuracy 99.21 %, standard deviation 0.06, over 20 seeds (95 % interval 99.18 to 99.24; all are
above 99.1), in 10 s on two threads of an AMD EPYC (Zen 4), 15 s the first time.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps, config.batch_size = 150, 64
    config.optimizer = (
        "contrib.muon(muon_weight_dimension_numbers='convolutions', consistent_rms=0.2, "
        "beta=0.9, adam_b1=0.7, adam_b2=0.9)"
    )
    config.learning_rate = 0.008
    config.schedule = "linear"
    config.warmup_steps = 37
    config.label_smoothing = 0.1
    config.dropout_rate = 0.0
    config.curriculum = "hardest(share=0.3, after=45)"
    config.log_every = 20
    config.eval_every = config.checkpoint_every = 150
    return config
