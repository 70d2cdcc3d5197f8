"""What was exported, run beside PyTorch: on random inputs, and on a test set with its metric."""

import copy
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
    """How far outputs are from PyTorch's.

    Attributes:
        largest: largest absolute difference of an output.
        scale: largest absolute value of PyTorch's outputs.
        inputs: how many inputs were compared.
    """

    largest: float = 0.0
    scale: float = 0.0
    inputs: int = 0

    def add(self, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
        """Count one batch.

        Raises:
            ValueError: number or shapes of the outputs differ, or one is not finite where PyTorch's is.
        """
        shapes = [[tuple(x.shape) for x in each] for each in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f'the exported network gives {shapes[0]}, PyTorch {shapes[1]}')
        for a, b in zip(found, expected):
            gap = (a.double() - b.double()).abs().max().item() if b.numel() else 0.0
            if gap != gap:
                raise ValueError('the exported network gives numbers that are not finite')
            self.largest = max(self.largest, gap)
            self.scale = max(self.scale, b.abs().max().item() if b.numel() else 0.0)
        self.inputs += len(expected[0])

    def __str__(self) -> str:
        return f'largest difference {self.largest:.3g} (outputs up to {self.scale:.3g}, {self.inputs} inputs)'


def compare(run: Runs, network: nn.Module, batches: list[Tensor]) -> Difference:
    """The difference of ``run`` from ``network`` over ``batches``."""
    found = Difference()
    for batch in batches:
        with torch.no_grad():
            found.add(run(batch), network(batch))
    return found


def rounding(network: nn.Module, batches: list[Tensor]) -> Difference:
    """How far PyTorch's own outputs move in float64: sums in another order move them as much.

    A neuron whose potential is within rounding of its threshold fires or does not, and what follows sees it.
    """
    wide = copy.deepcopy(network).double()
    return compare(lambda x: wide(x.double()), network, batches)


@dataclass
class Tested:
    """A run over the test set.

    Attributes:
        metrics: of the task's evaluator.
        difference: from PyTorch's outputs.
    """

    metrics: dict[str, float]
    difference: Difference = field(default_factory=Difference)


def test_set(cfg: Config, images: int | None = None) -> Runner:
    """A runner over the test set of ``cfg`` (of its first ``images``), one image in a batch for detectors.

    Raises:
        FileNotFoundError, ValueError: the data are missing or do not fit, as ``tools/test.py`` says.
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
    """The data set in its wrappers."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def run_test_set(runner: Runner, model: nn.Module, run: Runs, network: nn.Module, shape: tuple[int, ...]) -> Tested:
    """Test ``model``, whose network is ``run`` meanwhile.

    Args:
        runner: of `test_set`.
        model: the task model with its weights, on the CPU.
        run: takes inputs and gives the outputs of the network.
        network: the `Network` that ``run`` was exported from, for the difference.
        shape: C, H, W (T, C, H, W) that was exported. Smaller images of detectors are padded.
    """
    difference = Difference()
    runner.model = model
    with replaced(model, run, network, shape, difference):
        metrics = runner.test()
    return Tested({k: float(v) for k, v in metrics.items() if isinstance(v, Real)}, difference)


@contextmanager
def replaced(model: nn.Module, run: Runs, network, shape: tuple[int, ...], difference: Difference) -> Iterator[None]:
    """Within the context what ``model`` predicts comes from ``run``: its head's forward gives the file's outputs.

    Raises:
        ValueError: the model has no single head, or its images are not of the exported shape.
    """
    head = next((getattr(model, name) for name in HEADS if isinstance(getattr(model, name, None), nn.Module)), None)
    if head is None or isinstance(head, nn.ModuleList):
        raise ValueError(f'--verify: {type(model).__name__} has no single head that could be given the outputs')
    held = {}

    def extract_feat(inputs, *args, **kwargs):
        inputs = _fitted(inputs, shape, _may_pad(model))
        found = run(inputs)
        with torch.no_grad():
            expected = network(inputs)
            _, spec = tree_flatten(network.model(inputs, mode='tensor')) if 'spec' not in held else (None, held['spec'])
        held['spec'], held['outputs'] = spec, tree_unflatten(list(found), spec)
        difference.add(found, expected)
        return (inputs,)

    model.extract_feat, head.forward = extract_feat, lambda *args, **kwargs: held['outputs']
    try:
        yield
    finally:
        del model.extract_feat, head.forward


def _may_pad(model: nn.Module) -> bool:
    # detectors pad themselves what stands beside a larger image
    return type(model).__module__.startswith('mmdet')


def _fitted(inputs: Tensor, shape: tuple[int, ...], may_pad: bool) -> Tensor:
    height, width = shape[-2:]
    h, w = inputs.shape[-2:]
    if (h, w) == (height, width):
        return inputs
    if may_pad and h <= height and w <= width:
        return F.pad(inputs, (0, width - w, 0, height - h))
    raise ValueError(
        f'the network was exported for images of {height}x{width}, the test pipeline gives {h}x{w}: export '
        f'with --shape {h} {w}, or have the pipeline give one size'
    )


def calibration_batches(cfg: Config, model: nn.Module, shape: tuple[int, ...], images: int) -> Iterator[Tensor]:
    """``images`` of the training set, as the test pipeline and the data preprocessor make them, one at a time.

    ``shape`` is that of `run_test_set`.

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
    """What the network's inputs are: ``events`` or ``images``."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return 'events' if type_name(preprocessor) == 'EventDataPreprocessor' else 'images'
