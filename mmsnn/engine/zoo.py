"""Trying mmsnn in the configs of the installed mmdet, mmseg and mmpretrain, by one training step and one prediction."""

import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import get_installed_path

from mmsnn.building import type_name
from mmsnn.models import Spikify, SpikingResNet
from mmsnn.models.tracing import tensors_in
from mmsnn.neurons import Neuron
from mmsnn.neurons.firing import SpikeCounter

from .noise import channels, noise_batch

# Sizes of images to try, the smallest first.
LIBRARIES = dict(mmdet=(64, 256, 512), mmseg=(64, 256, 512), mmpretrain=(64, 32, 224, 384))
KINDS = ('ann', 'sew', 'spikify', 'distill')
RESNETS = ('ResNet', 'ResNetV1c', 'ResNetV1d')
T, BATCH = 2, 3
PRETRAINED = 'Pretrained', 'PretrainedInit'
# Errors that do not depend on the size of images if the next size has the same.
SIZELESS = (ImportError, KeyError, NotImplementedError, OSError, TypeError)
# Parts of messages that refuse a distillation term, which is then left out.
REFUSALS = dict(transfer='weight transfer refused', response='loss_response', feature='loss_feature')
RESPONSES = (
    # The first entry whose module a model has is used.
    ('decode_head.conv_seg', dict(type='PixelKL', student='decode_head.conv_seg', teacher='decode_head.conv_seg')),
    ('rpn_head', dict(type='DenseResponse', head='rpn_head', student='rpn_head[0]', teacher='rpn_head[0]')),
    ('bbox_head', dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]')),
    ('head.fc', dict(type='LogitKL', student='head.fc', teacher='head.fc')),
)


def folders() -> list[str]:
    """``library/folder`` of every folder that holds models."""
    names = []
    for library in LIBRARIES:
        root = root_of(library)
        inside = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in ('_base_', 'common'))
        names += [f'{library}/{name}' for name in inside]
    return names


def root_of(library: str) -> Path:
    """The folder of the configs that came with a library."""
    return Path(get_installed_path(library)) / '.mim' / 'configs'


def read(name: str) -> Config:
    """The config ``library/folder/file.py``, without checkpoints and with at most 50 layers."""
    library, _, rest = name.partition('/')
    cfg = Config.fromfile(str(root_of(library) / rest))
    for node in nodes(cfg._cfg_dict):
        for key in ('pretrained', 'teacher_ckpt', 'checkpoint'):
            if isinstance(node.get(key), str):
                node[key] = None
        # These augmentations pad to the size of COCO's images.
        node.pop('batch_augments', None)
        if isinstance(node.get('init_cfg'), dict) and type_name(node['init_cfg']) in PRETRAINED:
            node['init_cfg'] = None
        # The path is relative to the root of the library's repository.
        if isinstance(node.get('teacher_config'), str):
            node['teacher_config'] = str(root_of(library).parent / node['teacher_config'])
        if type_name(node) in RESNETS and node.get('depth', 0) > 50:
            node['depth'] = 50
    return cfg


def nodes(cfg) -> Iterator[dict]:
    """All dicts inside a config."""
    if isinstance(cfg, dict):
        yield cfg
    for value in cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, (list, tuple)) else ():
        yield from nodes(value)


def backbones(cfg) -> Iterator[tuple[dict, str]]:
    """The places of backbones in a model's config, as a dict and a key."""
    for node in nodes(cfg):
        for key in ('backbone', 'backbone_cfg'):
            if isinstance(node.get(key), dict) and node[key].get('type'):
                yield node, key


def survey(folder: str) -> dict:
    """The first config of a folder, its first config with a ResNet, and the first one of each type of backbone."""
    library, name = folder.split('/')
    configs = dict(first=None, resnet=None, types={})
    # Configs in subfolders, such as benchmarks of self-supervised models, come last.
    for file in sorted((root_of(library) / name).rglob('*.py'), key=lambda path: (len(path.parts), path)):
        config = f'{folder}/{file.relative_to(root_of(library) / name)}'
        try:
            cfg = Config.fromfile(str(file))
        # Some configs refer to files that are not part of the library.
        except Exception:
            continue
        if not cfg.get('model') or not cfg.model.get('type'):
            continue
        configs['first'] = configs['first'] or config
        for node, key in backbones(cfg.model):
            configs['types'].setdefault(scoped(node[key], cfg), config)
            if type_name(node[key]) in RESNETS:
                configs['resnet'] = configs['resnet'] or config
    return configs


def scoped(backbone: dict, cfg: Config) -> str:
    """The type of a backbone as ``library.Type``."""
    kind = backbone['type']
    if not isinstance(kind, str):
        return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    return kind if '.' in kind else f'{cfg.get("default_scope")}.{kind}'


def change(cfg: Config, kind: str, terms: tuple[str, ...] = (), tap: str = 'backbone') -> Config:
    """The config with the change that a user makes for ``kind``; ``tap`` is where features are compared."""
    plain = ConfigDict(cfg.model)
    if kind == 'distill':
        teacher = Config(dict(model=plain)).copy().model
        resnet = any(type_name(node[key]) in RESNETS for node, key in backbones(cfg.model))
        change(cfg, 'sew' if resnet else 'spikify')
        # As in mmsnn's student configs, nothing is frozen, because frozen random weights would not learn.
        for node in nodes(cfg.model):
            node.update({key: value for key, value in dict(frozen_stages=-1, norm_eval=False).items() if key in node})
        losses = {}
        if 'feature' in terms:
            losses['loss_feature'] = dict(type='FeatureMSE', student=tap, teacher=tap)
        if 'response' in terms:
            response = next((loss for name, loss in RESPONSES if name.split('.')[0] in plain), None)
            losses.update(loss_response=response) if response else None
        pre = dict(data_preprocessor=cfg.data_preprocessor) if cfg.get('data_preprocessor') else {}
        cfg.model = ConfigDict(
            type='mmsnn.Distiller', student={**pre, **cfg.model}, teacher={**pre, **teacher}, losses=losses,
            transfer='transfer' in terms,
        )  # fmt: skip
    for node, key in list(backbones(cfg.model)) if kind in ('sew', 'spikify') else ():
        if kind == 'spikify':
            node[key] = ConfigDict(type='mmsnn.Spikify', backbone=node[key], T=T)
        elif type_name(node[key]) in RESNETS:
            # The backbone is merged in the way of a child config.
            node[key] = ConfigDict(Config._merge_a_into_b(dict(type='mmsnn.SEWResNet', T=T), node[key]))
    return cfg


def build(cfg: Config):
    """Build the model with random weights, and with batch norms instead of SyncBN."""
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    for module in model.modules():
        init = getattr(module, 'init_cfg', None)
        if isinstance(init, dict) and type_name(init) in PRETRAINED:
            module.init_cfg = None
    if getattr(model.data_preprocessor, 'size', None):
        model.data_preprocessor.size = None
        model.data_preprocessor.size_divisor = 32
    model.init_weights()
    return model


def attempt(config: str, kind: str, size: int, terms: tuple[str, ...] = (), tap: str = 'backbone') -> dict:
    """Run one training step and one prediction; return the size, and the numbers of silent and of all neuron layers.

    Raises:
        Exception: any error of the config, the model or the data.
    """
    torch.manual_seed(0)
    cfg = change(read(config), kind, terms, tap)
    hub = MessageHub.get_current_instance()
    for key, value in dict(iter=0, epoch=0, max_iters=100, max_epochs=10).items():
        hub.update_info(key, value)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        plain = cfg if kind != 'distill' else Config({**cfg, 'model': cfg.model.student})
        model = build(cfg)
        neurons = [m for m in model.modules() if isinstance(m, Neuron)]
        if kind != 'ann' and not neurons:
            raise RuntimeError('nothing spikes')
        task = model.student if kind == 'distill' else model
        # MoCo needs a batch size that divides the length of its queue.
        images = BATCH + any('queue_len' in node for node in nodes(plain.model))
        batch = noise_batch(plain, task, images, size)
        wrapper = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4))
        # `train` of some detectors does not return the model.
        model.train()
        with SpikeCounter(model) as counter:
            losses = model.train_step(batch, wrapper)
        rates = counter.rates()
        bad = [name for name, value in losses.items() if not torch.as_tensor(value).isfinite().all()]
        if bad:
            raise FloatingPointError(f'{", ".join(bad)} not finite after {BATCH} images of noise')
        result = dict(size=size, silent=len(rates.silent), neurons=len(rates))
        model.eval()
        torch.manual_seed(1)
        side = size
        with torch.no_grad():
            if type(task).__module__.startswith('mmpretrain.models.selfsup'):
                # The model's own pipeline determines the size.
                side = tensors_in(batch['inputs'])[0].shape[-1]
                model.extract_feat(torch.randn(BATCH, 3, side, side))
            else:
                model.test_step(noise_batch(plain, model, BATCH, size))
            if kind in ('sew', 'spikify'):
                check_independence(model, side)
    return result


def check_independence(model, size: int) -> None:
    """Raise RuntimeError if one image of a batch changes the features of another."""
    images = torch.randn(BATCH, channels(model), size, size)
    other = images.clone()
    other[1] = torch.randn_like(images[1]) * 2
    run = model.extract_feat if hasattr(model, 'backbone') else next(
        m for m in model.modules() if isinstance(m, (SpikingResNet, Spikify))
    )  # fmt: skip
    for a, b in zip(tensors_in(run(images)), tensors_in(run(other))):
        if a.shape[:1] == (BATCH,) and not torch.allclose(a[::2], b[::2], atol=1e-4, rtol=1e-3):
            raise RuntimeError('one image of a batch changes the features of the others')


def trial(config: str, kind: str, size: int | None) -> dict:
    """The result of `attempt` with the smallest size of images and the most distillation terms that work.

    Where a message names another tap for the features, that one is tried.
    """
    start = time.process_time()
    result, refused, tap = {}, [], 'backbone'
    sizes = [size] if size else [*LIBRARIES[config.partition('/')[0]], *_named_sizes(config)]
    terms = ('transfer', 'feature', 'response') if kind == 'distill' else ()
    while True:
        for side in sizes:
            try:
                result = dict(ok=True, **attempt(config, kind, side, terms, tap))
                break
            # A failing model must not end the walk through the zoo.
            except Exception as error:
                words, before = ' '.join(str(error).split()), result.get('reason')
                result = dict(ok=False, reason=f'{type(error).__name__}: {words}'[:600], where=place(error))
                if isinstance(error, SIZELESS) and result['reason'] == before:
                    break
        reason = result.get('reason', '')
        named = re.search(r"'(backbone\[\d+\])'", reason)
        if named and tap == 'backbone':
            tap = named[1]
            continue
        gone = next((term for term, words in REFUSALS.items() if term in terms and words in reason), None)
        if result['ok'] or gone is None or not reason.startswith('ValueError'):
            break
        terms = tuple(term for term in terms if term != gone)
        refused.append(f'{gone}: {reason}')
    if kind == 'distill':
        result.update(terms=terms, refused=refused, tap=tap)
    return dict(result, seconds=round(time.process_time() - start, 1))


def _named_sizes(config: str) -> list[int]:
    """Sizes of images that the config's backbones name; empty if it cannot be read, which `attempt` reports."""
    try:
        named = [node[key].get('img_size') for node, key in backbones(read(config).model)]
    except Exception:
        return []
    return [n if isinstance(n, int) else max(n) for n in named if n]


def place(error: Exception) -> str:
    """The last three places of a traceback, as file names and line numbers."""
    return ' < '.join(f'{Path(f.filename).name}:{f.lineno}' for f in traceback.extract_tb(error.__traceback__)[:-4:-1])
