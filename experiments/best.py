"""The paper's network, unchanged, at its most accurate: 160 epochs of varied images.

Test accuracy 99.69 %, standard deviation 0.02, over 5 seeds (95 % interval 99.66 to 99.72; the
lowest is 99.67), trained at the same time in 4 minutes on an NVIDIA H200.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps, config.batch_size = 48_000, 200
    config.optimizer = (
        "contrib.muon(muon_weight_dimension_numbers='convolutions', consistent_rms=0.2)"
    )
    config.learning_rate, config.weight_decay = 0.002, 0.2
    config.warmup_steps = 600
    config.dropout_rate = 0.5
    config.ema_decay = 0.9995
    config.augment = (
        "distort(rotate=10, shift=1.5, scale=0.1, shear=0.1, alpha=20), corrupt(share=0.15)"
    )
    config.log_every = 600
    config.eval_every, config.checkpoint_every = 2_400, 4_800
    return config
