"""For digits cut out of photographs: other strokes, slants and places, remains of ruled lines.

Test accuracy 99.49 % with seed 0.
"""

from jaxmnist import config as base


def get_config():
    config = base.get_config()
    config.num_steps = 2500
    config.optimizer = "adamw(b2=0.99, weight_decay=1e-4)"
    config.learning_rate = 0.0015
    config.schedule = "cosine"
    config.warmup_steps = 100
    config.ema_decay = 0.998
    config.augment = (
        "affine(rotate=12, shift=2, scale=0.15, shear=0.15), elastic(alpha=15, sigma=4), "
        "strokes(thin=0.8, thick=1), lines(gaps=0.3, remains=0.3)"
    )
    config.eval_every = 2500
    config.checkpoint_every = 500
    return config
