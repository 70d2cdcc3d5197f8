"""The memory format channels_last."""

import torch
from mmengine.hooks import Hook

from mmsnn.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Converts the weights of student, connectors and teacher to the memory format channels_last.

    Convolutions then return maps in this format, and norms, neurons and additions keep it. It is often faster with
    tensor cores and oneDNN; measure it for your network. Checkpoints do not depend on it. It has no effect under FSDP,
    whose weights are flat.
    """

    def before_train(self, runner) -> None:
        runner.model.to(memory_format=torch.channels_last)
