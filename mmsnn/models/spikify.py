"""Any OpenMMLab backbone, with its activations turned into spiking neurons."""

import logging
from collections import Counter

import torch
from mmcv.cnn.bricks.activation import GELU, Clamp
from mmcv.cnn.bricks.hsigmoid import HSigmoid
from mmcv.cnn.bricks.hswish import HSwish
from mmcv.cnn.bricks.swish import Swish
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmsnn.layers import Readout, blank_image, evaluating, time_folded
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.ops.lif import check_time_steps
from mmsnn.registry import MODELS, build_own

from .arguments import refuse_unknown
from .backbone import SpikingBackbone
from .wrapper import Transparent

REPLACED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Hardswish,
    nn.Mish, Swish, HSwish, GELU,
)  # fmt: skip
ANALOG = (nn.Sigmoid, nn.Hardsigmoid, HSigmoid, nn.Tanh, nn.Softmax, nn.Softmax2d, nn.Softplus, Clamp)


class NeuronPerUse(nn.ModuleList):
    """The neurons of one activation module that is used several times a forward, in order of use.

    Spikify's forward calls `restart`, because activation checkpointing, which repeats some of the uses in the backward
    pass, and errors leave the order anywhere.
    """

    def __init__(self, neurons):
        super().__init__(neurons)
        self.restart()

    def restart(self) -> None:
        """Begin with the first use."""
        self._next = 0

    def forward(self, x: Tensor) -> Tensor:
        neuron = self[self._next]
        self._next = (self._next + 1) % len(self)
        return neuron(x)


@MODELS.register_module()
class Spikify(Transparent, SpikingBackbone, BaseModule):
    """A backbone whose ReLU-family, GELU and SiLU modules became neurons; encoder in front, readout behind.

    The inner backbone runs on ``[T*B, C, H, W]``. Its parameter names stay, so ANN checkpoints load. What stays analog
    (sigmoid gates, softmax) is logged; activations called as functions are not seen. Where the neuron has parameters
    (PLIF), each use of a shared activation gets one of its own, found by one forward of a blank image.

    Args:
        backbone: config of any registered backbone, e.g. ``dict(type='mmdet.ResNet', depth=50)``.
        T: time steps.
        neuron: neuron that replaces the activations.
        readout: ``mean`` or ``none``.
        encoder: how images become time steps, as in `SpikingResNet`.
        init_cfg: replaces the inner backbone's, because users set it on the outermost backbone.

    Raises:
        ValueError: nothing to replace, or ``T < 1``.
        TypeError: other keys, such as the inner backbone's; the message names all of them.
    """

    inner = 'backbone'

    def __init__(
        self,
        backbone: dict,
        T: int = 4,
        neuron: dict | None = None,
        readout: str = 'mean',
        encoder: dict | None = None,
        init_cfg: dict | None = None,
        **unknown,
    ):
        refuse_unknown(self, unknown)
        check_time_steps(T, 'backbone.T')
        super().__init__()
        self.T = T
        self.backbone = ROOT_MODELS.build({**backbone, 'init_cfg': init_cfg} if init_cfg else backbone)
        self.encoder = build_own({**(encoder or dict(type='DirectEncoder')), 'T': T})
        self.readout = Readout(T, readout)
        self._make_transparent()
        neuron = neuron_config(neuron)
        learns = any(True for _ in build_neuron(neuron, T).parameters())
        uses = self._count_uses() if learns else {}
        spiking = {}
        for parent in list(self.backbone.modules()):
            for name, child in list(parent._modules.items()):
                if isinstance(child, REPLACED):
                    # one activation may go by several names
                    if child not in spiking:
                        neurons = [build_neuron(neuron, T) for _ in range(uses.get(child, 1))]
                        spiking[child] = neurons[0] if len(neurons) == 1 else NeuronPerUse(neurons)
                    parent.add_module(name, spiking[child])
        replaced = Counter(type(child).__name__ for child in spiking)
        if not replaced:
            raise ValueError(
                f'backbone.backbone: {type(self.backbone).__name__} has no activation module that could spike '
                '(ReLU family, GELU, SiLU); functional activations cannot be replaced'
            )
        self.claim_neurons()
        analog = Counter(type(m).__name__ for m in self.backbone.modules() if isinstance(m, ANALOG))
        print_log(
            f'Spikify {type(self.backbone).__name__}: {dict(replaced)} became {neuron["type"]}, '
            f'{dict(analog) or "nothing"} stayed analog',
            logger='current',
            level=logging.INFO,
        )

    def _forward_blank(self):
        """The inner backbone's outputs for one blank image; nothing is changed by it."""
        with evaluating(self.backbone), torch.random.fork_rng(devices=[]), time_folded(self.T):
            return self.backbone(blank_image(self.backbone, 224).repeat(self.T, 1, 1, 1))

    def _count_uses(self) -> Counter:
        uses = Counter()
        hooks = [
            m.register_forward_pre_hook(lambda module, _: uses.update([module]))
            for m in self.backbone.modules()
            if isinstance(m, REPLACED)
        ]
        try:
            self._forward_blank()
        finally:
            for hook in hooks:
                hook.remove()
        return uses

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Widths of the maps that the backbone returns, found by a forward of a blank image."""
        outs = self._forward_blank()
        return tuple(out.shape[1] for out in (outs if isinstance(outs, (tuple, list)) else [outs]))

    def init_weights(self) -> None:
        """Initialise the inner backbone by its own rules; warns of settings that silence it without a checkpoint."""
        self.backbone.init_weights()
        self._is_init = True
        init_cfg = self.backbone.init_cfg
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            return
        silencing = [key for key in ('norm_eval', 'zero_init_residual') if getattr(self.backbone, key, False)]
        if silencing:
            keys = ', '.join(f'backbone.backbone.{key}' for key in silencing)
            print_log(
                f'{keys}=True: hardly a neuron will spike unless a checkpoint fills the backbone; set it to False to '
                'train from scratch',
                logger='current',
                level=logging.WARNING,
            )

    def forward(self, x: Tensor):
        """Images ``[B, C, H, W]`` or event frames ``[B, T, C, H, W]`` to the inner backbone's outputs, read out."""
        for module in self.modules():
            if isinstance(module, NeuronPerUse):
                module.restart()
        outs = self.backbone(self.encoder(x))
        return tuple(self.readout(out) for out in outs) if isinstance(outs, (tuple, list)) else self.readout(outs)
