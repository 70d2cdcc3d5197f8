"""Comparison of an exported network with PyTorch: on random inputs, and on a test set with its metric."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real

import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mmsnn.building import type_name

Runs = Callable[[Tensor], tuple[Tensor, ...]]
HEADS = ('bbox_head', 'decode_head', 'head')


@dataclass
class Difference:
    """The difference between the outputs of an exported network and PyTorch's.

    Attributes:
        largest: largest absolute difference.
        scale: largest absolute value of PyTorch's outputs.
        inputs: number of inputs that were compared.
    """

    largest: float = 0.0
    scale: float = 0.0
    inputs: int = 0

    def add(self, outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
        """Add the outputs of one batch.

        Raises:
            ValueError: the number or the shapes of the outputs differ, or a difference is not finite.
        """
        shapes = [[tuple(x.shape) for x in each] for each in (outputs, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f'the exported network returns tensors of shapes {shapes[0]}, PyTorch {shapes[1]}')
        for a, b in zip(outputs, expected):
            gap = (a.double() - b.double()).abs().max().item() if b.numel() else 0.0
            if not math.isfinite(gap):
                raise ValueError('the outputs of the exported network or of PyTorch are not finite')
            self.largest = max(self.largest, gap)
            self.scale = max(self.scale, b.abs().max().item() if b.numel() else 0.0)
        self.inputs += len(expected[0])

    def __str__(self) -> str:
        return f'largest difference {self.largest:.3g} (outputs up to {self.scale:.3g}, {self.inputs} inputs)'


def compare(run: Runs, network: nn.Module, batches: list[Tensor]) -> Difference:
    """The difference between the outputs of ``run`` and of ``network`` over ``batches``."""
    difference = Difference()
    for batch in batches:
        with torch.no_grad():
            difference.add(run(batch), network(batch))
    return difference


def rounding(network: nn.Module, batches: list[Tensor]) -> Difference:
    """How far PyTorch's own outputs move in float64, which is how much sums in another order may move them.

    Rounding decides whether a neuron fires whose potential is that close to its threshold, and later layers amplify it.
    """
    wide = copy.deepcopy(network).double()
    return compare(lambda x: wide(x.double()), network, batches)


@dataclass
class Tested:
    """The results of a run over the test set.

    Attributes:
        metrics: metrics of the task's evaluator.
        difference: difference from PyTorch's outputs.
    """

    metrics: dict[str, float]
    difference: Difference = field(default_factory=Difference)


def test_set(cfg: Config, images: int | None = None) -> Runner:
    """A runner over the test set of ``cfg``, or over its first ``images`` images.

    Raises:
        FileNotFoundError, ValueError: the data are missing or do not fit, as in ``tools/test.py``.
    """
    from mmsnn.engine import checks
    from mmsnn.engine.cli import build_runner, complete_loaders

    cfg = copy.deepcopy(cfg)
    cfg.load_from, cfg.resume, cfg.launcher = None, False, 'none'
    cfg.setdefault('work_dir', 'work_dirs/deploy')
    if images is not None:
        innermost(cfg.test_dataloader.dataset)['indices'] = images
    complete_loaders(cfg)
    checks.check_data(cfg, ('test',))
    return build_runner(cfg)


def innermost(dataset: ConfigDict) -> ConfigDict:
    """The config of the data set inside its wrappers."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def run_test_set(runner: Runner, model: nn.Module, run: Runs, network: nn.Module, shape: tuple[int, ...]) -> Tested:
    """Test ``model`` with the outputs of ``run`` in place of its own.

    Args:
        runner: a runner from `test_set`.
        model: the task model with its weights, on the CPU.
        run: takes inputs and returns the outputs of the network.
        network: the `Network` that ``run`` was exported from, for the difference.
        shape: the exported shape, ``(C, H, W)`` or ``(T, C, H, W)``; smaller images of detectors are padded to it.
    """
    difference = Difference()
    runner.model = model
    with replaced(model, run, network, shape, difference):
        metrics = runner.test()
    return Tested({k: float(v) for k, v in metrics.items() if isinstance(v, Real)}, difference)


@contextmanager
def replaced(model: nn.Module, run: Runs, network, shape: tuple[int, ...], difference: Difference) -> Iterator[None]:
    """Context in which ``model`` predicts from the outputs of ``run``, because its head's forward returns them.

    Raises:
        ValueError: the model has no single head, or an image does not have the exported size.
    """
    head = next((getattr(model, name) for name in HEADS if isinstance(getattr(model, name, None), nn.Module)), None)
    if head is None or isinstance(head, nn.ModuleList):
        raise ValueError(f'--verify: {type(model).__name__} has no single head that could take the exported outputs')
    held = {}

    def extract_feat(inputs, *args, **kwargs):
        inputs = _fitted(inputs, shape, _may_pad(model))
        outputs = run(inputs)
        with torch.no_grad():
            expected = network(inputs)
            _, spec = tree_flatten(network.model(inputs, mode='tensor')) if 'spec' not in held else (None, held['spec'])
        held['spec'], held['outputs'] = spec, tree_unflatten(list(outputs), spec)
        difference.add(outputs, expected)
        return (inputs,)

    model.extract_feat, head.forward = extract_feat, lambda *args, **kwargs: held['outputs']
    try:
        yield
    finally:
        del model.extract_feat, head.forward


def _may_pad(model: nn.Module) -> bool:
    # detectors are trained on padded images, because images of a batch have different sizes
    return type(model).__module__.startswith('mmdet')


def _fitted(inputs: Tensor, shape: tuple[int, ...], may_pad: bool) -> Tensor:
    height, width = shape[-2:]
    h, w = inputs.shape[-2:]
    if (h, w) == (height, width):
        return inputs
    if may_pad and h <= height and w <= width:
        return F.pad(inputs, (0, width - w, 0, height - h))
    raise ValueError(
        f'the network was exported for images of {height}x{width}, but the test pipeline returns {h}x{w}: export '
        f'with --shape {h} {w}, or make the pipeline resize all images to one size'
    )


def calibration_batches(cfg: Config, model: nn.Module, shape: tuple[int, ...], images: int) -> Iterator[Tensor]:
    """Random images of the training set, prepared by the test pipeline and the data preprocessor, in batches of one.

    Args:
        cfg: a config with data loaders for training and testing.
        model: the task model, for its data preprocessor.
        shape: as in `run_test_set`.
        images: number of images.

    Raises:
        FileNotFoundError: the training set is missing.
        ValueError: an image has another size and cannot be padded.
    """
    loader = copy.deepcopy(cfg.test_dataloader)
    dataset = copy.deepcopy(innermost(cfg.train_dataloader.dataset))
    dataset.pipeline = innermost(cfg.test_dataloader.dataset).pipeline
    dataset.pop('filter_cfg', None)
    loader.dataset, loader.batch_size, loader.num_workers, loader.persistent_workers = dataset, 1, 0, False
    loader.sampler = dict(type='DefaultSampler', shuffle=True)
    if cfg.get('default_scope') == 'mmpretrain':
        loader.setdefault('collate_fn', dict(type='default_collate'))
    for k, batch in enumerate(Runner.build_dataloader(loader, seed=0)):
        if k == images:
            return
        yield _fitted(model.data_preprocessor(batch, False)['inputs'], shape, _may_pad(model))


def image_kind(cfg: Config) -> str:
    """The kind of the network's inputs: ``events`` or ``images``."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return 'events' if type_name(preprocessor) == 'EventDataPreprocessor' else 'images'
