"""Maps whose channels lie next to each other in memory."""

import torch
from mmengine.hooks import Hook

from mmsnn.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lays out the weights of student, connectors and teacher with the channels last, and with them the maps.

    Convolutions hand this layout on; norms, neurons and additions keep it. Tensor cores and oneDNN often prefer it;
    whether it pays is to be measured. Checkpoints load either way. Without effect under FSDP, whose weights are flat.
    """

    def before_train(self, runner) -> None:
        runner.model.to(memory_format=torch.channels_last)
