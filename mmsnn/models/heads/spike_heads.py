"""Heads of dense tasks in which spikes are propagated up to the last convolution, and its output is read out."""

from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import RetinaHead
from mmseg.models.decode_heads import FPNHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.layers import Readout
from mmsnn.layers.conv import pack, spike_bits, use_events
from mmsnn.models.necks.spike_fpn import ConvNormAct, check_folded, check_images
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import MODELS


@MODELS.register_module()
class JointNormRetinaHead(RetinaHead):
    """The ANN twin of `SpikeRetinaHead`: mmdet's RetinaHead with batch norms over all levels together.

    In mmdet's RetinaHead, batch norms normalise each level by itself in training but share their statistics in
    evaluation; see `ConvNormAct`. Parameter names are those of mmdet.

    Args:
        args, kwargs: arguments of mmdet's RetinaHead; ``norm_cfg`` is batch norm by default.
    """

    def __init__(self, *args, norm_cfg: dict | None = None, **kwargs):
        super().__init__(*args, norm_cfg=norm_cfg or dict(type='BN', requires_grad=True), **kwargs)
        for tower in (self.cls_convs, self.reg_convs):
            for i, layer in enumerate(tower):
                tower[i] = ConvNormAct(layer, layer.activate)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits and box deltas, one map ``[B, A*K, H, W]`` per level, from levels ``[B, C, H, W]``."""
        return self._tower(self.cls_convs, self.retina_cls, x), self._tower(self.reg_convs, self.retina_reg, x)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas of a single level."""
        (scores,), (deltas,) = self.forward((x,))
        return scores, deltas

    @staticmethod
    def _tower(layers: nn.ModuleList, last: nn.Module, x: tuple[Tensor, ...]) -> list[Tensor]:
        levels = list(x)
        for layer in layers:
            levels = layer(levels)
        return [last(level) for level in levels]


@MODELS.register_module()
class SpikeRetinaHead(JointNormRetinaHead):
    """Spiking form of RetinaNet's head (Lin et al., ICCV 2017): towers of convolution, norm and neuron.

    The input of the last convolutions is spikes as well. Their outputs, averaged over time, are the class logits and
    box deltas; losses, anchors and non-maximum suppression are those of mmdet. Parameter names are those of mmdet's
    RetinaHead with norms. The spiking form is mmsnn's own.

    Args:
        args, kwargs: arguments of mmdet's RetinaHead; ``norm_cfg`` is batch norm by default.
        T: time steps of backbone and neck.
        neuron: config of all neurons.
        packed_spikes: whether convolutions keep their input spikes as bits for the backward pass; those of the first
            layer use bytes, because their inputs may be sums of spikes. ``'event'`` as in `mmsnn.SpikingResNet`.

    Raises:
        ValueError: ``T`` is out of range.
        TimeFoldingError: in the forward pass, time is not folded into the inputs (``backbone.readout='mean'``). If T
            divides the number of images by chance, losses and predictions raise it.
    """

    def __init__(self, *args, T: int = 4, neuron: dict | None = None, packed_spikes: bool | str = False, **kwargs):
        check_time_steps(T, 'bbox_head.T')
        super().__init__(*args, **kwargs)
        for tower, last in ((self.cls_convs, 'retina_cls'), (self.reg_convs, 'retina_reg')):
            bits = 8
            for layer in tower:
                layer.activate = build_neuron(neuron_config(neuron), T)
                if packed_spikes:
                    pack(layer, 'conv', bits)
                bits = spike_bits(layer.activate)
            if packed_spikes:
                pack(self, last, bits)
        use_events(self, packed_spikes, 'bbox_head.packed_spikes')
        self.readout = Readout(T)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits and box deltas, one map ``[B, A*K, H, W]`` per level, from levels ``[T*B, C, H, W]``."""
        check_folded('bbox_head', x[0], self.readout.T)
        scores, deltas = super().forward(x)
        return [self.readout(s) for s in scores], [self.readout(d) for d in deltas]

    def loss_by_feat(self, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, *args, **kwargs) -> dict:
        """As `RetinaHead.loss_by_feat`."""
        check_images('bbox_head', cls_scores[0], self.readout.T, len(batch_img_metas))
        return super().loss_by_feat(cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, *args, **kwargs)

    def predict_by_feat(self, cls_scores, bbox_preds, *args, batch_img_metas=None, **kwargs) -> list:
        """As `RetinaHead.predict_by_feat`."""
        if batch_img_metas is not None:
            check_images('bbox_head', cls_scores[0], self.readout.T, len(batch_img_metas))
        return super().predict_by_feat(cls_scores, bbox_preds, *args, batch_img_metas=batch_img_metas, **kwargs)


@MODELS.register_module()
class SpikeFPNHead(FPNHead):
    """Spiking form of Semantic FPN's head (Kirillov et al., CVPR 2019): scale heads of convolution, norm and neuron.

    Upsampling repeats spikes instead of interpolating as mmseg's FPNHead does, so that the input of ``conv_seg`` is
    sums of spikes over the levels. Its outputs, averaged over time, are the logits. Dropout drops a channel at all time
    steps. Parameter names are those of mmseg. The spiking form is mmsnn's own.

    Args:
        feature_strides: as in mmseg's FPNHead.
        T: time steps of backbone and neck.
        neuron: config of all neurons.
        packed_spikes: whether the convolutions of the scale heads keep their input spikes as bits for the backward
            pass; those of the first layers use bytes. ``'event'`` as in `mmsnn.SpikingResNet`.
        norm_cfg: config of the norms; None means batch norm.
        act_cfg: ignored; configs inherit it from the ANN, and ``neuron`` takes its place.
        kwargs: arguments of mmseg's FPNHead; ``align_corners`` affects only the logits.

    Raises:
        ValueError: ``T`` is out of range.
        TimeFoldingError: in the forward pass, time is not folded into the inputs (``backbone.readout='mean'``). If T
            divides the number of images by chance, losses and predictions raise it.
    """

    def __init__(
        self,
        feature_strides,
        T: int = 4,
        neuron: dict | None = None,
        packed_spikes: bool | str = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs,
    ):
        check_time_steps(T, 'decode_head.T')
        super().__init__(feature_strides, norm_cfg=norm_cfg or dict(type='BN', requires_grad=True), **kwargs)
        for head in self.scale_heads:
            bits = 8
            for i, layer in enumerate(head):
                if not isinstance(layer, ConvModule):
                    head[i] = nn.Upsample(scale_factor=2, mode='nearest')
                    continue
                head[i] = ConvNormAct(layer, build_neuron(neuron_config(neuron), T))
                if packed_spikes:
                    pack(head[i], 'conv', bits)
                bits = spike_bits(head[i].activate)
        use_events(self, packed_spikes, 'decode_head.packed_spikes')
        self.readout = Readout(T)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits ``[B, num_classes, H, W]`` of the size of the finest level, from levels ``[T*B, C, H, W]``."""
        first, *others = self._transform_inputs(inputs)
        check_folded('decode_head', first, self.readout.T)
        total = self.scale_heads[0](first)
        for head, x in zip(self.scale_heads[1:], others, strict=True):
            total = total + F.interpolate(head(x), total.shape[2:], mode='nearest')
        return self.readout(self.cls_seg(total))

    def cls_seg(self, feat: Tensor) -> Tensor:
        """The logits of every time step, from ``[T*B, C, H, W]``."""
        if self.dropout is not None and self.training:
            images, channels = feat.shape[0] // self.readout.T, feat.shape[1]
            mask = self.dropout(feat.new_ones(images, channels, 1, 1))
            feat = feat * mask.repeat(self.readout.T, 1, 1, 1)
        return self.conv_seg(feat)

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict:
        """As `FPNHead.loss_by_feat`."""
        check_images('decode_head', seg_logits, self.readout.T, len(batch_data_samples))
        return super().loss_by_feat(seg_logits, batch_data_samples)

    def predict_by_feat(self, seg_logits: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """As `FPNHead.predict_by_feat`."""
        check_images('decode_head', seg_logits, self.readout.T, len(batch_img_metas))
        return super().predict_by_feat(seg_logits, batch_img_metas)
