"""Spiking backbones in the libraries' own models: a training step and a prediction each; `conftest` prints a table.

Each model is a config of mmdet, mmseg or mmpretrain in which a user has replaced the backbone and written the lines
that depend on its maps. Besides that it is only made narrow.
"""

import copy
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from helpers import build_model, noise_batch
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmsnn.models  # noqa: F401  registers

README = Path(__file__).parents[2] / 'configs' / 'spiking' / 'README.md'
T, B, SIZE, CLASSES = 2, 3, 64, 5
WIDTH = 16

# Small backbones, with the indices of all their maps. Strides are 4, 8, 16, 32 where nothing else is said.
RESNET = dict(depth=18, base_channels=8, out_indices=(0, 1, 2, 3))
# 16 four times
COLUMN = dict(arch=dict(embed_dims=32, num_layers=4, num_heads=2), out_indices=(0, 1, 2, 3))
META = dict(
    arch=dict(embed_dims=(16, 16, 24, 32), num_layers=(1, 1), num_heads=2),
    last_stride=2,
    # So few channels and tokens never reach the released threshold. Three norms in a row then have no variance, and
    # multiply gradients by eps**-1.5 = 3e7.
    attn_neuron=dict(v_threshold=0.05),
    out_indices=(1, 2, 3, 4),
)
CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]),
    gap_before_final_norm=False,
    out_indices=(0, 1, 2, 3),
)
BACKBONES = {
    'SpikingResNet': RESNET,
    'SEWResNet': RESNET,
    'MSResNet': RESNET,
    # 4, 8, 16 with this stem
    'SpikingResNet19': dict(base_channels=8, stem='imagenet', out_indices=(0, 1, 2)),
    'SpikingVGG': dict(depth=11, base_channels=8, out_indices=(1, 2, 3, 4)),
    'Spikformer': COLUMN,
    'Spikingformer': COLUMN,
    'MetaSpikeFormer': META,
    # 4, 8, 16
    'QKFormer': dict(arch=dict(embed_dims=32, num_layers=(1, 1, 1), num_heads=2), out_indices=(0, 1, 2)),
    # whose defaults silence it
    'Spikify ResNet': dict(backbone=dict(type='mmdet.ResNet', norm_eval=False, zero_init_residual=False, **RESNET)),
    'Spikify ConvNeXt': dict(backbone=CONVNEXT),
}


def backbone(name: str, first: int | None = None) -> dict:
    """Config of a backbone that returns its maps from ``first`` on."""
    cfg = copy.deepcopy(BACKBONES[name])
    inner = cfg.get('backbone', cfg)
    inner['out_indices'] = inner['out_indices'][first:]
    return dict(type=f'mmsnn.{name.split()[0]}', T=T, **cfg)


@functools.cache
def widths(name: str, first: int | None = None) -> list[int]:
    """`out_channels` of the maps from ``first`` on."""
    return list(MODELS.build(backbone(name, first)).out_channels)


# What a user writes besides the backbone, given the library's model and the widths of the backbone's maps.


def neck(model, channels):
    return dict(neck=dict(in_channels=channels))


def levels(channels):
    """Strides 4, 8, 16, 32 of four maps of stride 16."""
    return dict(type='mmseg.Feature2Pyramid', embed_dim=channels[0])


def levels_and_neck(model, channels):
    return dict(neck=[levels(channels), dict(model.neck, in_channels=channels)])


def three_levels_and_neck(model, channels):
    """Strides 8, 16, 32 of the last map."""
    three = dict(type='mmseg.MultiLevelNeck', in_channels=channels, out_channels=WIDTH, scales=[2, 1, 0.5])
    return dict(neck=[three, dict(model.neck, in_channels=[WIDTH] * 3)])


def last_maps(model, channels):
    return dict(
        decode_head=dict(in_channels=channels[-1], in_index=-1),
        auxiliary_head=dict(in_channels=channels[-2], in_index=-2),
    )


def last_maps_and_first(model, channels):
    heads = last_maps(model, channels)
    heads['decode_head']['c1_in_channels'] = channels[0]
    return heads


def every_map(model, channels):
    heads = dict(decode_head=dict(in_channels=channels))
    if 'auxiliary_head' in model:
        heads['auxiliary_head'] = dict(in_channels=channels[-2], in_index=-2)
    return heads


def made_levels(fit):
    """``fit`` behind a neck that makes levels."""
    return lambda model, channels: dict(fit(model, channels), neck=levels(channels))


def head(model, channels):
    return dict(head=dict(in_channels=channels[-1]))


def multi_label_head(model, channels):
    """In the place of a VGG's own linear layers."""
    return dict(
        neck=dict(_delete_=True, type='GlobalAveragePooling'),
        head=dict(type='MultiLabelLinearClsHead', num_classes=CLASSES, in_channels=channels[-1]),
    )


@dataclass
class Model:
    """One of a library's models.

    Args:
        config: its name there.
        fit: what a user writes for a backbone with levels, and for one without.
        small: what makes it narrow.
        first: of the backbone's maps that it takes; None for all. A backbone without levels then gives its last.
    """

    config: str
    fit: tuple[Callable, Callable]
    small: dict = field(default_factory=dict)
    first: int | None = None

    def read(self) -> Config:
        """The config with its own backbone, narrow behind it."""
        cfg = copy.deepcopy(_read(self.config))
        cfg.merge_from_dict(dict(model=self.small))
        if 'num_classes' in cfg.get('data_preprocessor', ()):
            cfg.data_preprocessor.num_classes = CLASSES
        return cfg

    def with_backbone(self, name: str) -> Config:
        """The config as a user changes it."""
        cfg = self.read()
        single = BACKBONES[name] is COLUMN
        first = -1 if single and self.first else self.first
        cfg.merge_from_dict(dict(model=dict(backbone=dict(_delete_=True, **backbone(name, first)))))
        if cfg.model.get('pretrained'):
            # of the backbone that is gone
            cfg.model.pretrained = None
        cfg.merge_from_dict(dict(model=self.fit[single](cfg.model, widths(name, first))))
        return cfg


@functools.cache
def _read(config):
    return get_config(config)


GROUPS = dict(type='GN', num_groups=4)
EVERY_BOX = dict(score_thr=0.0)


def one_stage(config: str, *fit, first=None, norm_cfg=None, **small) -> Model:
    dense = dict(num_classes=CLASSES, in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1)
    if norm_cfg:
        dense['norm_cfg'] = norm_cfg
    small = dict(neck=dict(out_channels=WIDTH), bbox_head=dense, test_cfg=EVERY_BOX, **small)
    return Model(f'mmdet::{config}', fit or (neck, levels_and_neck), small, first)


def two_stage(config: str, **roi_head) -> Model:
    roi_head['bbox_roi_extractor'] = dict(out_channels=WIDTH)
    roi_head['bbox_head'] = dict(num_classes=CLASSES, in_channels=WIDTH, fc_out_channels=WIDTH)
    small = dict(
        neck=dict(out_channels=WIDTH),
        rpn_head=dict(in_channels=WIDTH, feat_channels=WIDTH),
        roi_head=roi_head,
        test_cfg=dict(rcnn=EVERY_BOX),
    )
    return Model(f'mmdet::{config}', (neck, levels_and_neck), small)


def queries(config: str, first: int, **small) -> Model:
    small['neck'] = dict(out_channels=WIDTH, **small.get('neck', {}))
    attention = dict(embed_dims=WIDTH, num_heads=2)
    layer = dict(self_attn_cfg=attention, ffn_cfg=dict(embed_dims=WIDTH, feedforward_channels=WIDTH))
    small |= dict(
        num_queries=6,
        encoder=dict(num_layers=1, layer_cfg=layer),
        decoder=dict(num_layers=2, layer_cfg=dict(layer, cross_attn_cfg=attention)),
        positional_encoding=dict(num_feats=WIDTH // 2),
        bbox_head=dict(num_classes=CLASSES, embed_dims=WIDTH),
        test_cfg=dict(max_per_img=5),
    )
    # ChannelMapper makes missing levels by convolutions of stride 2
    return Model(f'mmdet::{config}', (neck, neck), small, first)


def segmentor(config: str, *fit, auxiliary=True, neck=None, **decode_head) -> Model:
    narrow = dict(channels=8, num_classes=CLASSES)
    small = dict(decode_head=dict(narrow, **decode_head))
    small |= dict(auxiliary_head=narrow) if auxiliary else {}
    small |= dict(neck=neck) if neck else {}
    return Model(f'mmseg::{config}', fit, small)


def classifier(config: str, fit=head, **small) -> Model:
    return Model(f'mmpretrain::{config}', (fit, fit), small)


NARROW_HEAD = dict(num_classes=CLASSES)
MASKS = dict(
    mask_roi_extractor=dict(out_channels=WIDTH),
    mask_head=dict(num_classes=CLASSES, in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1),
)
MODELS_OF_LIBRARIES = {
    'RetinaNet': one_stage('retinanet/retinanet_r50_fpn_1x_coco.py'),
    'FCOS': one_stage('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', norm_cfg=GROUPS),
    'ATSS': one_stage('atss/atss_r50_fpn_1x_coco.py', norm_cfg=GROUPS),
    'GFL': one_stage('gfl/gfl_r50_fpn_1x_coco.py', norm_cfg=GROUPS),
    'Faster R-CNN': two_stage('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
    'Mask R-CNN': two_stage('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', **MASKS),
    'YOLOX': one_stage(
        'yolox/yolox_s_8xb8-300e_coco.py',
        neck,
        three_levels_and_neck,
        first=-3,
        # which resize the images
        data_preprocessor=dict(batch_augments=None),
    ),
    'DETR': queries('detr/detr_r50_8xb2-150e_coco.py', first=-1),
    'DINO': queries(
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        first=-3,
        neck=dict(norm_cfg=GROUPS),
        dn_cfg=dict(group_cfg=dict(num_dn_queries=4)),
    ),
    'FCN': segmentor('fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py', last_maps, last_maps),
    'PSPNet': segmentor('pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py', last_maps, last_maps),
    'DeepLabV3+': segmentor(
        'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
        last_maps_and_first,
        made_levels(last_maps_and_first),
        c1_channels=4,
    ),
    'UPerNet': segmentor('upernet/upernet_r50_4xb4-80k_ade20k-512x512.py', every_map, made_levels(every_map)),
    'Semantic FPN': segmentor(
        'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
        neck,
        levels_and_neck,
        auxiliary=False,
        neck=dict(out_channels=WIDTH),
        in_channels=[WIDTH] * 4,
    ),
    'SegFormer': segmentor(
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', every_map, made_levels(every_map), auxiliary=False
    ),
    'Linear': classifier('resnet/resnet50_8xb32_in1k.py', head=NARROW_HEAD),
    'Multi-label': classifier('vgg/vgg16_8xb16_voc.py', multi_label_head),
    'CSRA': classifier('csra/resnet101-csra_1xb16_voc07-448px.py', head=NARROW_HEAD),
}

# in all models, and all backbones in these models
THOROUGH = ('SEWResNet', 'Spikformer', 'MetaSpikeFormer', 'Spikify ConvNeXt')
COMMON = ('RetinaNet', 'FCN', 'Semantic FPN', 'Linear')
PAIRS = [(m, b) for m in MODELS_OF_LIBRARIES for b in BACKBONES if m in COMMON or b in THOROUGH]


def noise(model: nn.Module) -> dict:
    """`noise_batch`, with masks, and with several labels an image, where the model wants them."""
    if isinstance(getattr(model, 'head', None), MultiLabelClsHead):
        images = torch.randint(256, (B, 3, SIZE, SIZE), dtype=torch.uint8)
        return dict(inputs=[*images], data_samples=[DataSample().set_gt_label([i, i + 1]) for i in range(B)])
    batch = noise_batch(model, B, SIZE)
    if getattr(model, 'with_mask', False):
        for sample in batch['data_samples']:
            masks = torch.rand(len(sample.gt_instances), SIZE, SIZE) > 0.5
            sample.gt_instances.masks = BitmapMasks(masks.byte().numpy(), SIZE, SIZE)
    return batch


def check_prediction(task: str, sample) -> None:
    if task == 'mmdet':
        found = sample.pred_instances
        assert len(found) and found.bboxes.isfinite().all() and found.scores.isfinite().all()
        assert 'masks' not in found or found.masks.shape[1:] == (SIZE, SIZE)
    elif task == 'mmseg':
        assert sample.pred_sem_seg.data.shape == (1, SIZE, SIZE)
        assert sample.seg_logits.data.shape == (CLASSES, SIZE, SIZE) and sample.seg_logits.data.isfinite().all()
    else:
        assert sample.pred_score.shape == (CLASSES,) and sample.pred_score.isfinite().all()


def check_strides(model: nn.Module, size: int = SIZE) -> None:
    """The strides for which a detector has anchors or points are those of the maps."""
    dense = getattr(model, 'rpn_head', None) or model.bbox_head
    if not hasattr(dense, 'prior_generator'):
        return
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, size, size))
    strides = [stride[0] for stride in dense.prior_generator.strides]
    assert [m.shape[2] for m in maps] == [math.ceil(size / stride) for stride in strides]


@pytest.mark.parametrize('model, name', PAIRS)
def test_trains_and_predicts(model, name, record_property):
    record_property('mixing', (model, name, 'ok'))
    cfg = MODELS_OF_LIBRARIES[model].with_backbone(name)
    task = cfg.default_scope
    with DefaultScope.overwrite_default_scope(task):
        network = build_model(cfg, SIZE)
        for norm in network.modules():
            if isinstance(norm, _BatchNorm):
                # one step's statistics serve the evaluation, and silent layers keep a variance
                norm.momentum = 0.99
        first = next(network.backbone.parameters())
        before = first.clone()
        wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=1e-3))
        wrapper.zero_grad = lambda: None
        losses = network.train().train_step(noise(network), wrapper)
        assert losses['loss'] > 0 and all(math.isfinite(value) for value in losses.values()), losses
        # neither lost on the way nor exploded
        assert 1e-9 < first.grad.abs().max() < 1e3 and not torch.equal(before, first)
        network.eval()
        if task == 'mmdet':
            check_strides(network)
        with torch.no_grad():
            found = network.test_step(noise(network))
    assert len(found) == B
    for sample in found:
        check_prediction(task, sample)


RESNETS = ('SpikingResNet', 'SEWResNet', 'MSResNet')
KEPT = {name: 'has no such key. .*_delete_=True' for name in BACKBONES}
KEPT |= dict.fromkeys(RESNETS, 'backbone.init_cfg loads torchvision://resnet50, but backbone.depth=18')
KEPT['SpikingResNet19'] = 'backbone.num_stages=4: a ResNet-19 has 3 stages'
PRETRAINED = {name: 'backbone.pretrained: .* has no such key. .* model.pretrained=None' for name in BACKBONES}
PRETRAINED |= {
    name: 'backbone.init_cfg loads open-mmlab://resnet50_v1c, .* pretrained=None'
    for name in (*RESNETS, 'SpikingResNet19')
}


def keys_kept(name):
    """The type and some settings replaced, and nothing deleted."""
    cfg = MODELS_OF_LIBRARIES['RetinaNet'].read()
    settings = dict(depth=19) if name == 'SpikingResNet19' else {}
    cfg.merge_from_dict(dict(model=dict(backbone={**backbone(name), **settings})))
    return cfg


def pretrained_kept(name):
    """The backbone replaced, but not the checkpoint that mmseg names beside it."""
    model = MODELS_OF_LIBRARIES['FCN']
    cfg = model.with_backbone(name)
    cfg.model.pretrained = model.read().model.pretrained
    return cfg


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('make, messages', [(keys_kept, KEPT), (pretrained_kept, PRETRAINED)])
def test_inherited_keys_are_refused(make, messages, name, record_property):
    """By name, before anything is downloaded."""
    row = {keys_kept: 'RetinaNet, keys kept', pretrained_kept: 'FCN, pretrained kept'}[make]
    record_property('mixing', (row, name, 'not refused'))
    cfg = make(name)
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        pytest.raises((TypeError, ValueError), match=messages[name]) as caught,
    ):
        MODELS.build(cfg.model).init_weights()
    if make is keys_kept and 'former' in name.lower():
        assert all(f'backbone.{key}' in str(caught.value) for key in ('depth', 'num_stages', 'style'))
    record_property('mixing', (row, name, 'refused', f'{caught.type.__name__}: {caught.value}'))


def test_spikify_warns_of_what_silences_it(monkeypatch):
    said = []
    monkeypatch.setattr('mmsnn.models.spikify.print_log', lambda text, **_: said.append(text))
    # nothing is loaded
    monkeypatch.setattr('mmsnn.models.spikify.init_inner', lambda _: None)

    def start(init_cfg=None, **settings):
        cfg = dict(type='mmdet.ResNet', depth=18, base_channels=8, **settings)
        model = MODELS.build(dict(type='mmsnn.Spikify', backbone=cfg, T=T, init_cfg=init_cfg))
        said.clear()
        model.init_weights()
        return model

    start(norm_eval=False, zero_init_residual=False)
    start(dict(type='Pretrained', checkpoint='a.pth'))
    assert not said
    silent = start()
    assert 'backbone.backbone.norm_eval, backbone.backbone.zero_init_residual=True: hardly any neuron' in said[0]
    assert not silent.train()(torch.randn(B, 3, SIZE, SIZE))[-1].any()


def examples() -> list[str]:
    """The configs that the README writes out."""
    return re.findall(r'```python\n(.*?)```', README.read_text(), re.S)


@pytest.mark.parametrize('text', examples(), ids=lambda text: re.search(r'mmsnn\.(\w+)', text)[1])
def test_examples_of_the_readme(text):
    cfg = Config.fromstring(text, '.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        network = build_model(cfg).eval()
        if cfg.default_scope == 'mmdet':
            check_strides(network)
        else:
            with torch.no_grad():
                network(torch.zeros(1, 3, SIZE, SIZE))
