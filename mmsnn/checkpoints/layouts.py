"""Layouts: the names that other codebases give to the weights of networks that mmsnn has.

No released checkpoint was available for tests. These layouts are checked with the modules of their own libraries, with
equal logits: SpikingJelly 2.0.0 (``resnet``, ``ms_resnet``, ``vgg``, ``jelly_spikformer``, ``jelly_qkformer``) and
torchvision (``resnet``, ``torchvision_vit``). These are written after the authors' code and never tried on one of their
files: SEW's ImageNet code, SAKD, Spikformer, Spikingformer, QKFormer, Spike-driven Transformer V2, and timm's ViTs.

SEW's networks for CIFAR10-DVS and DVS128 Gesture are not ResNets (they have seven stages of one block, and linear
layers on flattened maps). mmsnn has no such backbone and refuses them by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The names that a codebase gives to the weights of networks that mmsnn has.

    Attributes:
        name: name of the layout on the command line.
        about: the codebases that write such files.
        marks: regexes; a file has this layout if each of them matches one of its names. The first layout whose marks
            match is taken.
        renames: regexes with their replacements, applied one after the other; ``{q,k,v}_`` stands for three tensors
            that the source stores as one.
        backbone: regex that matches the beginnings of renamed names in the backbone. Names that begin with ``head.``
            belong to the head. Other entries are not used.
        spare: regex of entries that are known to have no use.
        zero_bias: regex of weights to which a bias of 0 is added, because mmsnn has one and the source does not.
        fold: regex of biases that only the source has; they are merged into the running means of the following norms.
        remark: settings that the config needs to compute the same outputs.
        caution: remaining differences of the outputs.
    """

    name: str
    about: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    backbone: str
    spare: str = r'(?!)'
    zero_bias: str = r'(?!)'
    fold: str = r'(?!)'
    remark: str = ''
    caution: str = ''

    def rename(self, key: str) -> str | None:
        """The name in mmsnn; None for an entry without use."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        if key.startswith('head.'):
            return key
        return f'backbone.{key}' if re.match(self.backbone, key) else None


HEAD = (r'^head\.', 'head.fc.')


# SEW's two ways to store a convolution with its norm, and learned time constants (PLIF).
RESNET = (
    (r'\.conv(\d)\.(?:module\.)?0\.', r'.conv\1.'),
    (r'\.conv(\d)\.(?:module\.)?1\.', r'.bn\1.'),
    (r'\.downsample\.0\.(?:module\.)?([01])\.', r'.downsample.\1.'),
    (r'\.downsample(?:\.1|_sn)\.w$', '.downsample_neuron.w'),
    (r'(^|\.)sn(\d)\.', r'\1neuron\2.'),
)


STAGES = r'(conv1|bn1|neuron1|stem|layer\d)\.'


# SpikingJelly's attention
ATTENTION = (
    (r'\.qkv_conv_bn\.0\.', '.{q,k,v}_conv.'),
    (r'\.qkv_conv_bn\.1\.', '.{q,k,v}_bn.'),
    (r'\.qk_conv_bn\.0\.', '.{q,k}_conv.'),
    (r'\.qk_conv_bn\.1\.', '.{q,k}_bn.'),
    (r'\.proj_conv_bn\.0\.', '.proj_conv.'),
    (r'\.proj_conv_bn\.1\.', '.proj_bn.'),
)


# LayerNorms that the releases never call.
NORMS = r'\.norm[12]\.'


LAYOUTS = (
    Layout(
        'openmmlab',
        'mmpretrain, mmdet, mmseg and mmsnn',
        (r'^backbone\.',),
        (),
        '',
    ),
    Layout(
        'ms_resnet',
        "SpikingJelly's ms_resnet",
        (r'^stem\.0\.weight', r'^head\.weight'),
        ((r'^stem\.0\.', 'conv1.'), (r'^stem\.1\.', 'bn1.'), (r'\.spike(\d)\.', r'.neuron\1.'), HEAD),
        STAGES,
        remark="neuron=dict(type='LIF', tau=4 / 3, v_threshold=0.5, decay_input=False, detach_reset=True)",
    ),
    Layout(
        'sakd_resnet19',
        "SAKD's ResNet-19 with its two linear layers",
        (r'^fc_\.',),
        (*RESNET, (r'^fc_\.', 'head.layers.1.fc.'), (r'^fc\.', 'head.layers.0.fc.')),
        STAGES,
        spare=r'^transform\d\.',
        remark="neuron=dict(type='LIF', decay_input=False), head: SpikingStackedLinearClsHead",
    ),
    Layout(
        'resnet',
        "torchvision, timm, SpikingJelly's sew_resnet and spiking_resnet, SEW's ImageNet code, SAKD, ResNets for CIFAR",
        (r'^layer1\.0\.conv1\.',),
        (*RESNET, (r'^(fc|linear)\.', 'head.fc.')),
        STAGES,
        # These are SAKD's projectors.
        spare=r'^transform\d\.',
        remark="for SNNs, their neuron: SEW's type='IF', detach_reset=True; SAKD's type='LIF', decay_input=False",
    ),
    Layout(
        'vgg',
        "SpikingJelly's spiking_vgg, torchvision's VGGs with batch norm",
        (r'^features\.0\.weight',),
        (
            (r'^classifier\.0\.', 'head.layers.0.fc.'),
            (r'^classifier\.1\.', 'head.layers.0.act.'),
            (r'^classifier\.3\.', 'head.layers.1.fc.'),
            (r'^classifier\.4\.', 'head.layers.1.act.'),
            (r'^classifier\.6\.', 'head.layers.2.fc.'),
        ),
        r'features\.',
        remark='its linear layers fit SpikingStackedLinearClsHead behind maps pooled to 7x7; other heads stay random',
    ),
    Layout(
        'jelly_spikformer',
        "SpikingJelly's spikformer",
        (r'^patch_embed\.stages\.0\.conv_bn\.',),
        (
            (r'\.conv_bn\.block\.0\.', '_conv.'),
            (r'\.conv_bn\.block\.1\.', '_bn.'),
            (r'\.stages\.0_(\w+)\.', r'.proj_\1.'),
            (r'\.stages\.(\d)_(\w+)\.', r'.proj_\2\1.'),
            (r'\.positional_encoding_', '.rpe_'),
            (r'^blocks\.', 'block.'),
            *ATTENTION,
            (r'\.fc(\d)\.0\.', r'.fc\1_conv.'),
            (r'\.fc(\d)\.1\.', r'.fc\1_bn.'),
            HEAD,
        ),
        r'(patch_embed|block\.\d+\.(attn|mlp))\.',
        zero_bias=r'\.(attn\.proj|mlp\.fc\d)_conv\.weight$',
        remark='cml=True, arch=dict(embed_dims=..., num_layers=..., num_heads=...)',
    ),
    Layout(
        'jelly_qkformer',
        "SpikingJelly's qkformer",
        (r'^patch_embed1\.conv1\.',),
        (
            (r'^(patch_embed1)\.(conv|bn)1\.', r'\1.proj_\2.'),
            (r'^(patch_embed1)\.(conv|bn)2\.', r'\1.proj1_\2.'),
            (r'^(patch_embed1)\.(conv|bn)3\.', r'\1.proj2_\2.'),
            (r'^(patch_embed[23])\.(conv|bn)1\.', r'\1.proj3_\2.'),
            (r'^(patch_embed[23])\.(conv|bn)2\.', r'\1.proj4_\2.'),
            (r'\.shortcut\.0\.', '.proj_res_conv.'),
            (r'\.shortcut\.1\.', '.proj_res_bn.'),
            (r'^(stage[12]\.\d+)\.attn\.', r'\1.tssa.'),
            *ATTENTION,
            (r'\.mlp\.fc(\d)\.', r'.mlp.fc\1_conv.'),
            (r'\.mlp\.bn(\d)\.', r'.mlp.fc\1_bn.'),
            HEAD,
        ),
        r'(patch_embed[123]|stage[123]\.\d+\.(attn|tssa|mlp))\.',
        zero_bias=r'\.(attn|tssa)\.proj_conv\.weight$',
        fold=r'^backbone\.patch_embed.*_conv\.bias$',
        remark='attn_neuron=dict() where its neurons were given settings, which then hold behind attentions, too',
    ),
    Layout(
        'spikformer',
        "Spikformer's ImageNet and CIFAR code",
        (r'^patch_embed\.proj_conv1\.',),
        ((r'_linear\.', '_conv.'), HEAD),
        r'(patch_embed|block\.\d+\.(attn|mlp))\.',
        spare=NORMS,
    ),
    Layout(
        'spikingformer',
        "Spikingformer's ImageNet and CIFAR code",
        (r'^patch_embed\.(proj1|block1)_conv\.',),
        ((r'\.block0_', '.proj_'), (r'\.block(\d)_', r'.proj\1_'), HEAD),
        r'(patch_embed|block\.\d+\.(attn|mlp))\.',
        spare=NORMS,
    ),
    Layout(
        'qkformer',
        "QKFormer's ImageNet and CIFAR code",
        (r'^patch_embed1\.proj_conv\.',),
        ((r'\.ssa\.', '.attn.'), (r'\.mlp([12])_', r'.fc\1_'), HEAD),
        r'(patch_embed[123]|stage[123]\.\d+\.(attn|tssa|mlp))\.',
        spare=NORMS,
        caution='in the release, membrane potentials of proj_lif pass from one image of a batch to the next, and here '
        'they do not: outputs are the same for one image at a time, and the accuracy differs slightly from the paper',
    ),
    Layout(
        'meta_spikeformer',
        'Spike-driven Transformer V2',
        (r'^downsample1_1\.encode_conv\.',),
        (HEAD,),
        r'(downsample|ConvBlock)\d|block[34]\.\d+\.(attn|mlp)\.',
        remark="readout='none' and SpikingPooling in front of the head",
    ),
    Layout(
        'timm_vit',
        "timm's vision transformers",
        (r'^blocks\.0\.attn\.qkv\.',),
        (
            (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
            (r'^norm\.', 'ln1.'),
            (r'^fc_norm\.', 'ln2.'),
            (r'^blocks\.(\d+)\.norm', r'layers.\1.ln'),
            (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
            (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
            (r'^blocks\.', 'layers.'),
            (r'^head\.', 'head.layers.head.'),
        ),
        r'(cls_token|pos_embed)$|(patch_embed|layers|ln[12])\.',
        remark="the pixel statistics of timm's model, often mean = std = 127.5",
    ),
    Layout(
        'torchvision_vit',
        "torchvision's vision transformers",
        (r'^encoder\.layers\.encoder_layer_0\.',),
        (
            (r'^class_token$', 'cls_token'),
            (r'^encoder\.pos_embedding$', 'pos_embed'),
            (r'^conv_proj\.', 'patch_embed.projection.'),
            (r'^encoder\.ln\.', 'ln1.'),
            (r'^encoder\.layers\.encoder_layer_', 'layers.'),
            (r'\.ln_(\d)\.', r'.ln\1.'),
            (r'\.self_attention\.in_proj_', '.attn.qkv.'),
            (r'\.self_attention\.out_proj\.', '.attn.proj.'),
            (r'\.mlp\.(?:0|linear_1)\.', '.ffn.layers.0.0.'),
            (r'\.mlp\.(?:3|linear_2)\.', '.ffn.layers.1.'),
            (r'^heads\.head\.', 'head.layers.head.'),
        ),
        r'(cls_token|pos_embed)$|(patch_embed|layers|ln1)\.',
    ),
)


# Names in SEW's networks for event data: conv.0.0.module.0, conv.1.conv.0.0.module.0.
SEVEN_BLOCKS = r'^conv\.\d+\.(conv\.\d+\.)?0\.(module\.)?[01]\.'


def find_layout(state: Mapping, name: str | None = None) -> Layout:
    """The layout called ``name``, or the one that ``state`` is in.

    Raises:
        ValueError: the layout is unknown; the message lists the known ones.
    """
    known = '\n'.join(f'  {layout.name}: {layout.about}' for layout in LAYOUTS)
    for layout in LAYOUTS:
        if layout.name == name or (name is None and all(any(re.search(m, k) for k in state) for m in layout.marks)):
            return layout
    if name is not None:
        raise ValueError(f'no layout {name!r}; there are\n{known}')
    if any(re.search(SEVEN_BLOCKS, key) for key in state):
        raise ValueError(
            "this is SEW's network for event data (CIFAR10-DVS, DVS128 Gesture), which is not a ResNet: mmsnn has no "
            'such backbone; train SEWResNet with in_channels=2 instead'
        )
    raise ValueError(f'unknown layout, with names such as {", ".join(list(state)[:3])}; known are\n{known}')
