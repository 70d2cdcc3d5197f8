"""A hook that sends its own process a signal, in trainings of several processes."""

import os
import signal

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Sends(Hook):
    """Sends the second process the signal ``name`` in iteration 6; nothing where there is no name."""

    def __init__(self, name: str):
        self.name = name

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Before an iteration."""
        if self.name and get_rank() == 1 and runner.iter == 5:
            os.kill(os.getpid(), getattr(signal, self.name))
