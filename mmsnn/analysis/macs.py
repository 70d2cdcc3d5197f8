"""Multiply-accumulates by module: of the ANN twin, of one time step, and of all T."""

from collections import Counter
from dataclasses import dataclass

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmsnn.layers import TimeAware, get_time_steps, image_channels, set_time_steps
from mmsnn.models import EventDataPreprocessor

from .forward import flop_counter, watching


@dataclass(frozen=True)
class ModuleMacs:
    """Multiply-accumulates of one image in a module and all that is in it.

    Attributes:
        name: as in ``model.named_modules()``; '' is the model.
        once: done once whatever T is: what a static image passes before time begins, and what lies behind the readout.
        per_step: done again at every time step.
        T: number of time steps.
    """

    name: str
    once: int
    per_step: int
    T: int

    @property
    def twin(self) -> int:
        """The same layers without time, as in the ANN."""
        return self.once + self.per_step

    @property
    def total(self) -> int:
        """Over all time steps."""
        return self.once + self.T * self.per_step


@dataclass(frozen=True)
class MacReport:
    """What `count_macs` found.

    Attributes:
        modules: those with multiply-accumulates, in the order of ``model.named_modules()``, the model itself first.
        shape: of the input.
        spiking: whether there is an SNN beside the twin.
        remark: what the count supposes.
    """

    modules: list[ModuleMacs]
    shape: tuple[int, ...]
    spiking: bool
    remark: str = ''

    @property
    def model(self) -> ModuleMacs:
        """The whole model."""
        return self.modules[0]

    def __getitem__(self, name: str) -> ModuleMacs:
        return next(m for m in self.modules if m.name == name)

    def as_dict(self) -> dict:
        """Everything, ready for JSON."""
        figures = {m.name: dict(twin=m.twin, once=m.once, per_step=m.per_step, total=m.total) for m in self.modules}
        model = figures.pop('')
        return dict(shape=self.shape, T=self.model.T, remark=self.remark, **model, modules=figures)

    def table(self, depth: int = 1) -> Table:
        """The report for ``rich.print``, modules down to ``depth`` names."""
        unit, letter = (1e9, 'G') if self.model.twin >= 1e9 else (1e6, 'M')
        columns = {f'MACs ({letter})': 'twin'}
        if self.spiking:
            columns = {'ANN twin': 'twin', 'once': 'once', 'per step': 'per_step', f'T={self.model.T}': 'total'}
            columns = {f'{title} ({letter})': key for title, key in columns.items()}
        table = Table(
            title=f'Multiply-accumulates of one input {" x ".join(map(str, self.shape))}',
            caption='Convolutions, linear layers and matrix products, dense, biases free. Not counted: neurons, norms '
            f'(folded into convolutions), pooling, resizing, sums. {self.remark}'.strip(),
            show_footer=True,
        )
        table.add_column('module', 'total', overflow='fold', min_width=20)
        for title, key in columns.items():
            table.add_column(title, f'{getattr(self.model, key) / unit:.3f}', justify='right', no_wrap=True)
        for m in self.modules[1:]:
            if m.name.count('.') < depth:
                table.add_row(m.name, *(f'{getattr(m, key) / unit:.3f}' for key in columns.values()))
        return table


def count_macs(model: nn.Module, size: tuple[int, int]) -> MacReport:
    """Multiply-accumulates (MACs, one multiplication and one addition) for one image, without post-processing.

    Counted are convolutions, linear layers and matrix products (attention), all dense, padded zeros included, as papers
    count them; sparsity is `count_energy`'s subject. Neurons are no MACs, and norms are folded into convolutions.

    The ANN twin is the same network at T=1. The model is run at T=1 and at its own T (2, if that is 1): what grows
    belongs to every step, the rest is done once. So folded time, the stem that a static image passes once, per-step
    heads and event frames count as they really run. The second stage of a detector gets as many boxes as the first may
    propose (``test_cfg.rpn.max_per_img``), each a pooled map.

    Args:
        model: a task model or a bare backbone, spiking or not, on any device. Only shapes matter: on the ``meta``
            device nothing is computed. It is run in eval mode; its modes and T are restored.
        size: height and width of the image. It has as many channels as the narrowest convolution takes; with an
            `EventDataPreprocessor` the input is event frames.

    Raises:
        ValueError: no convolution, or modules with different T.
        RuntimeError: from PyTorch, where the network does not take images of that size.
    """
    channels, device = image_channels(model), next(model.parameters()).device
    spiking = any(isinstance(m, TimeAware) for m in model.modules())
    T = get_time_steps(model)
    event = isinstance(getattr(model, 'data_preprocessor', None), EventDataPreprocessor)

    def measure(steps: int) -> Counter:
        if spiking:
            set_time_steps(model, steps)
        return _measure(model, torch.zeros(1, *[steps] * event, channels, *size, device=device))

    try:
        twin = measure(1)
        longer = max(T, 2)
        growth = measure(longer) if spiking else twin
    finally:
        if spiking:
            set_time_steps(model, T)
    found = []
    for name, _ in model.named_modules():
        if twin[name]:
            per_step = (growth[name] - twin[name]) // (longer - 1)
            found.append(ModuleMacs(name, twin[name] - per_step, per_step, T))
    boxes = _boxes(model)
    remark = f'The second stage sees {boxes} boxes.' if boxes else ''
    return MacReport(found, (1, *[T] * event, channels, *size), spiking, remark)


def _measure(model: nn.Module, images: Tensor) -> Counter:
    """MACs by name of module, those of its children included."""
    found, begun, handles = Counter(), [], []
    counter = flop_counter()

    def before(*_):
        begun.append(counter.get_total_flops())

    def after(name):
        def add(*_):
            # the counter's flops are two for each multiply-accumulate
            found[name] += (counter.get_total_flops() - begun.pop()) // 2

        return add

    # of attention only plain products are sure to be seen
    with watching(model, (), None), sdpa_kernel(SDPBackend.MATH), counter:
        try:
            for name, module in list(model.named_modules())[1:]:
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(after(name)))
            _run(model, images)
        finally:
            for handle in handles:
                handle.remove()
    # some are not called as modules: mmdet and mmseg call their heads' forward
    for name, module in reversed(list(model.named_modules())):
        prefix = f'{name}.' if name else ''
        found[name] = max(found[name], sum(found[prefix + child] for child, _ in module.named_children()))
    found[''] = counter.get_total_flops() // 2
    return found


def _run(model: nn.Module, images: Tensor) -> None:
    if not isinstance(model, BaseModel):
        model(images)
    elif not _boxes(model):
        # detection transformers mask what padding added
        shape = tuple(images.shape[-2:])
        sample = DetDataSample(metainfo=dict(batch_input_shape=shape, img_shape=shape))
        model(images, [sample] * len(images) if isinstance(model, BaseDetector) else None, mode='tensor')
    else:
        _run_two_stages(model, images)


def _boxes(model: nn.Module) -> int:
    """Boxes that a second stage gets, 0 where there is none."""
    return model.test_cfg['rpn']['max_per_img'] if getattr(model, 'roi_head', None) is not None else 0


def _run_two_stages(model: nn.Module, images: Tensor) -> None:
    """A two-stage detector; which boxes it would find depends on weights and image, what a box costs does not."""
    maps = model.extract_feat(images)
    model.rpn_head(maps)
    stage = model.roi_head
    stages = dict(bbox=_boxes(model), mask=model.test_cfg['rcnn']['max_per_img'] if stage.with_mask else 0)
    for kind, count in stages.items():
        heads, extractors = (getattr(stage, f'{kind}_{part}', None) for part in ('head', 'roi_extractor'))
        if not count or heads is None:
            continue
        lists = isinstance(heads, nn.ModuleList), isinstance(extractors, nn.ModuleList)
        heads, extractors = (v if many else [v] for v, many in zip((heads, extractors), lists))
        for head, extractor in zip(heads, extractors):
            side = extractor.roi_layers[0].output_size
            pooled = maps[0].new_zeros(count * len(maps[0]), extractor.out_channels, *side)
            if stage.with_shared_head:
                pooled = stage.shared_head(pooled)
            head(pooled)
