"""The base class of spiking backbones, which have an encoder and neurons that fire only after it."""

import functools

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn.layers import TimeAware, time_folded
from mmsnn.neurons import Neuron


class SpikingBackbone(TimeAware):
    """Base of the backbones that have an ``encoder``; their neurons fire only inside the backbone's forward.

    If a network called the layers of a backbone itself, without the encoder, neurons would take images for time steps.
    So ``forward``, also that of a subclass, runs in `mmsnn.layers.time_folded`, and a neuron that is called elsewhere
    raises `mmsnn.layers.TimeFoldingError`. Constructors must end with `claim_neurons`.

    Attributes:
        events: the engine of `mmsnn.event_driven`, or None.
    """

    events = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if 'forward' in cls.__dict__:
            cls.forward = _behind_encoder(cls.forward)

    def train(self, mode: bool = True):
        """As `nn.Module.train`, but frozen stages stay in eval mode, and with ``norm_eval`` all batch norms do.

        Returns:
            The module itself.
        """
        super().train(mode)
        self._freeze_stages()
        if mode and vars(self).get('norm_eval', False):
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        """Freeze the parameters and the statistics of the stages that ``frozen_stages`` names."""
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        """The modules that ``frozen_stages`` freezes; a backbone without that argument has none."""
        return []

    def claim_neurons(self) -> None:
        """Make all neurons of this backbone raise an error when they are called outside of its forward."""
        for name, module in self.named_modules():
            if isinstance(module, Neuron):
                module.owner = f'{type(self).__name__}.{name}'


def _behind_encoder(forward):
    @functools.wraps(forward)
    def run(self, *args, **kwargs):
        x = args[0] if args else next(iter(kwargs.values()), None)
        # Images are [B, ...] and event frames [B, T, ...]; the encoder refuses anything else.
        if self.events is not None and args:
            args = (self.events.enter(x), *args[1:])
        known = isinstance(x, Tensor) and x.dim() and not torch.compiler.is_compiling()
        with time_folded(self.encoder.T * x.shape[0] if known else 0):
            return forward(self, *args, **kwargs)

    return run
