"""The head of linear layers for ResNet-19 and VGG."""

from mmpretrain.models.heads import StackedLinearClsHead
from torch import Tensor

from mmsnn.layers import Readout
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.registry import MODELS


@MODELS.register_module()
class SpikingStackedLinearClsHead(StackedLinearClsHead):
    """Linear layers with a neuron after each but the last; the logits are means over time.

    The backbone needs ``readout='none'``, so that features are ``[T*B, C]``. Parameter names are those of mmpretrain's
    StackedLinearClsHead.

    Args:
        T: time steps.
        neuron: config of the neurons after the hidden layers.
        args, kwargs: arguments of ``mmpretrain.StackedLinearClsHead``, without ``act_cfg``.

    Raises:
        TypeError: ``act_cfg`` is given.
        ValueError: in ``loss`` and ``predict``, time is not folded into the features.
    """

    def __init__(self, *args, T: int = 4, neuron: dict | None = None, **kwargs):
        if kwargs.pop('act_cfg', None) is not None:
            raise TypeError('head.act_cfg: set head.neuron instead, the neuron after the hidden layers')
        super().__init__(*args, act_cfg=None, **kwargs)
        for layer in self.layers[:-1]:
            layer.act = build_neuron(neuron_config(neuron), T)
        self.readout = Readout(T)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Logits ``[B, num_classes]`` from features ``[T*B, C]``."""
        return self.readout(super().forward(feats))

    def loss(self, feats: tuple[Tensor, ...], data_samples: list, **kwargs) -> dict:
        """As `StackedLinearClsHead.loss`."""
        self._check(feats, data_samples)
        return super().loss(feats, data_samples, **kwargs)

    def predict(self, feats: tuple[Tensor, ...], data_samples: list | None = None) -> list:
        """As `StackedLinearClsHead.predict`."""
        if data_samples is not None:
            self._check(feats, data_samples)
        return super().predict(feats, data_samples)

    def _check(self, feats: tuple[Tensor, ...], data_samples: list) -> None:
        # Without this check, the images of a batch would be taken for time steps.
        T, rows = self.readout.T, feats[-1].shape[0]
        # Inside `read_short` there are two predictions per image.
        images = len(data_samples) // (1 if self.readout.short_T is None else 2)
        if rows != T * images:
            raise ValueError(
                f"head: {rows} features for {images} images in T={T} steps: set backbone.readout='none' and "
                'the same T in backbone and head'
            )
