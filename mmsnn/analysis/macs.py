"""Multiply-accumulates by module, for the ANN twin, for one time step and for all T."""

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
        name: name in ``model.named_modules()``; '' is the model.
        once: operations that run once whatever T is: those before a static image is repeated and after the readout.
        per_step: operations that run at every time step.
        T: number of time steps.
    """

    name: str
    once: int
    per_step: int
    T: int

    @property
    def twin(self) -> int:
        """Operations of the same layers in the ANN."""
        return self.once + self.per_step

    @property
    def total(self) -> int:
        """Operations over all time steps."""
        return self.once + self.T * self.per_step


@dataclass(frozen=True)
class MacReport:
    """The result of `count_macs`.

    Attributes:
        modules: modules with multiply-accumulates, in the order of ``model.named_modules()``, the model itself first.
        shape: shape of the input.
        spiking: whether the model is an SNN.
        remark: an assumption of the count.
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
        """All results in a form that JSON can hold."""
        figures = {m.name: dict(twin=m.twin, once=m.once, per_step=m.per_step, total=m.total) for m in self.modules}
        model = figures.pop('')
        return dict(shape=self.shape, T=self.model.T, remark=self.remark, **model, modules=figures)

    def table(self, depth: int = 1) -> Table:
        """The report as a table for ``rich.print``, with modules down to a depth of ``depth`` names."""
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

    Convolutions, linear layers and matrix products (attention) are counted as dense, including padded zeros, as in
    papers; `count_energy` takes sparsity into account. Neurons have no MACs, and norms are assumed to be folded into
    convolutions.

    The ANN twin is the same network at T=1. The model runs at T=1 and at its own T (2 if that is 1). Operations that
    grow belong to every step, and the others run once. So the stem that a static image passes once, heads that run at
    every step, and event frames are counted as they run. The second stage of a detector gets as many boxes as the first
    may propose (``test_cfg.rpn.max_per_img``).

    Args:
        model: a task model or a backbone, spiking or not, on any device. Only shapes matter, so on the ``meta`` device
            nothing is computed. It runs in eval mode; its modes and T are restored.
        size: height and width of the image, whose channels are those of the first convolution; with an
            `EventDataPreprocessor` the input is event frames.

    Raises:
        ValueError: modules have different T.
        RuntimeError: from PyTorch, if the network does not accept images of that size.
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
    modules = []
    for name, _ in model.named_modules():
        if twin[name]:
            per_step = (growth[name] - twin[name]) // (longer - 1)
            modules.append(ModuleMacs(name, twin[name] - per_step, per_step, T))
    boxes = _boxes(model)
    remark = f'The second stage gets {boxes} boxes.' if boxes else ''
    return MacReport(modules, (1, *[T] * event, channels, *size), spiking, remark)


def _measure(model: nn.Module, images: Tensor) -> Counter:
    """MACs by the name of a module, including those of its children."""
    macs, begun, handles = Counter(), [], []
    counter = flop_counter()

    def before(*_):
        begun.append(counter.get_total_flops())

    def after(name):
        def add(*_):
            # The counter has two operations for each multiply-accumulate.
            macs[name] += (counter.get_total_flops() - begun.pop()) // 2

        return add

    # The counter may miss fused attention, so attention runs as plain matrix products.
    with watching(model, (), None), sdpa_kernel(SDPBackend.MATH), counter:
        try:
            for name, module in list(model.named_modules())[1:]:
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(after(name)))
            _run(model, images)
        finally:
            for handle in handles:
                handle.remove()
    # Some modules run without their hooks, because mmdet and mmseg call the forward of their heads directly.
    for name, module in reversed(list(model.named_modules())):
        prefix = f'{name}.' if name else ''
        macs[name] = max(macs[name], sum(macs[prefix + child] for child, _ in module.named_children()))
    macs[''] = counter.get_total_flops() // 2
    return macs


def _run(model: nn.Module, images: Tensor) -> None:
    if not isinstance(model, BaseModel):
        model(images)
    elif not _boxes(model):
        # Detection transformers need the shapes to mask padding.
        shape = tuple(images.shape[-2:])
        sample = DetDataSample(metainfo=dict(batch_input_shape=shape, img_shape=shape))
        model(images, [sample] * len(images) if isinstance(model, BaseDetector) else None, mode='tensor')
    else:
        _run_two_stages(model, images)


def _boxes(model: nn.Module) -> int:
    """Number of boxes that the second stage gets; 0 without one."""
    return model.test_cfg['rpn']['max_per_img'] if getattr(model, 'roi_head', None) is not None else 0


def _run_two_stages(model: nn.Module, images: Tensor) -> None:
    """Run a two-stage detector with a fixed number of boxes, since the cost of a box does not depend on its place."""
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
