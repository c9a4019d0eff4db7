"""How a command stops for what is no bug, in one sentence for its user."""

import signal


class UserError(Exception):
    """What a user can mend; its message is one sentence: what is wrong, where, what to do."""


class Interrupted(Exception):
    """A signal stopped the run, after its checkpoint was written."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"{signal.Signals(signum).name}: stopped after step {step}")
        self.signum = signum
