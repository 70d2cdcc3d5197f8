"""Trying out a config: building datasets and model, one training step, one prediction, and the memory of a step."""

import io
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmsnn.building import is_distiller, type_name
from mmsnn.checkpoints.fitting import load_weights
from mmsnn.checkpoints.loading import pretrained_from
from mmsnn.distill.schedules import Progress
from mmsnn.neurons import SpikeCounter
from mmsnn.parts import explain
from mmsnn.shipped import is_remote, local

from .findings import Finding, error, note, number, some, warning
from .memory import Kept, memory, teachers_of, too_large

# Number of images in a step on a CPU, where a whole batch may take minutes.
FEW = 2
# Number of images in which boxes are looked for.
SOME = 100


class Trial:
    """Runs the first steps of a training and of a validation, and reports errors instead of raising them.

    Nothing is written, because the work dir is a temporary one.

    Args:
        cfg: a whole config.
        build: builds a runner from a config.
    """

    def __init__(self, cfg: Config, build):
        self.cfg, self.build = cfg.copy(), build
        self.problem: Finding | None = None
        self.device = get_device()

    def run(self) -> Iterator[Finding]:
        """Yield the findings in the order in which they arise."""
        with tempfile.TemporaryDirectory() as folder:
            self.cfg.update(work_dir=folder, log_level='ERROR', custom_hooks=[], resume=False)
            loaders = {}
            for part in ('train', 'val', 'test'):
                same = part == 'test' and self.cfg.get('test_dataloader') == self.cfg.get('val_dataloader')
                if self.cfg.get(f'{part}_dataloader') and not same:
                    yield from self._load(part, loaders)
            runner = None
            with self._tried('model'):
                runner = self.build(self.cfg)
            yield from self._said()
            if runner is None:
                return
            yield from self._weights(runner)
            if 'train' in loaders and self.cfg.get('optim_wrapper'):
                yield from self._train(runner, *loaders['train'])
            if 'val' in loaders:
                yield from self._predict(runner, *loaders['val'])
            if self.cfg.get('test_evaluator') and self.cfg.test_evaluator != self.cfg.get('val_evaluator'):
                with self._tried('test_evaluator'):
                    runner.build_evaluator(self.cfg.test_evaluator)
                yield from self._said()

    @contextmanager
    def _tried(self, key: str):
        """Context that turns an exception into a finding for `_said`, and hides the output of the libraries."""
        try:
            with redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter('ignore')
                yield
        except Exception as failure:
            problem = explain(failure, self.cfg) or failure
            text = '; '.join(' '.join(line.split()) for line in str(problem).splitlines() if line.strip())
            # many messages begin with their config key, some of them with its value
            found = re.match(r'(\w+)((?:\.\w+)+)(?:: | |=)(.+)', text)
            if found and found[1] in self.cfg:
                self.problem = error(found[1] + found[2], found[3])
            else:
                self.problem = error(key, f'{type(problem).__name__}: {text[:600]}')

    def _said(self) -> Iterator[Finding]:
        if self.problem is not None:
            yield self.problem
            self.problem = None

    def _load(self, part: str, loaders: dict) -> Iterator[Finding]:
        """Build a data loader and load its first batch."""
        key = f'{part}_dataloader'
        loader = self.cfg[key].copy()
        size = loader.get('batch_size') or 1
        loader.update(num_workers=0, persistent_workers=False)
        if self.device == 'cpu' and isinstance(size, int):
            loader.batch_size = min(size, FEW)
        batch = None
        scope = DefaultScope.overwrite_default_scope(self.cfg.get('default_scope'))
        with scope, self._tried(f'{key}.dataset'):
            built = Runner.build_dataloader(loader, seed=0)
        if self.problem is None:
            images = len(built.dataset)
            with self._tried(f'{key}.dataset.pipeline'):
                batch = next(iter(built), None)
            empty = part == 'train' and isinstance(size, int) and images < size and loader.get('drop_last')
            if empty:
                text = f'{size}, but there are {images} images and drop_last=True: no batch is left'
                yield error(f'{key}.batch_size', text)
        yield from self._said()
        if batch is None:
            return
        loaders[part] = batch, built.dataset, loader.get('batch_size'), size
        yield from self._boxes(key, built.dataset)
        if not empty:
            yield note(f'{key}.dataset', f'{number(images, "image")}, batches of {size}')

    def _boxes(self, key: str, dataset) -> Iterator[Finding]:
        """Check that a detection dataset of any kind has boxes of its classes."""
        with self._tried(key):
            places = range(0, len(dataset), max(1, len(dataset) // SOME))
            boxes = [info.get('instances') for info in map(dataset.get_data_info, places)]
            if boxes and all(isinstance(one, list) for one in boxes) and not any(boxes):
                self.problem = error(
                    f'{key}.dataset',
                    f'none of {number(len(boxes), "image")} that were looked at has a box: do the names of the classes '
                    'in the files differ from metainfo.classes?',
                )
        if self.problem is not None and self.problem.key == key:
            # The dataset cannot give its boxes this way.
            self.problem = None
        yield from self._said()

    def _epochs(self, images: int, size: int) -> int:
        """How often the training goes through the data."""
        loop = self.cfg.get('train_cfg') or {}
        return loop.get('max_epochs') or math.ceil(loop.get('max_iters', 0) * size / images)

    def _weights(self, runner: Runner) -> Iterator[Finding]:
        """Initialise the model as training does and load the weights that the config names, without downloads."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        fetched = set()
        for teacher in teachers_of(model):
            if teacher.random:
                yield warning(teacher.key[1], teacher.random)
            remote = _fetched(teacher.model) if teacher.checkpoint is None else {teacher.checkpoint}
            remote = {source for source in remote if is_remote(source) or not os.path.isfile(local(source))}
            # A teacher whose weights are missing keeps random ones, which suffice for one step.
            teacher.loaded = bool(remote)
            fetched |= {source for source in remote if is_remote(source)}
        own = {source for source in _fetched(model) if is_remote(source)}
        if not own:
            with self._tried('model'):
                runner._init_model_weights()
            yield from self._said()
        if own | fetched:
            yield note('model', f'weights that training would download were left out: {some(sorted(own | fetched))}')
        source = self.cfg.get('load_from')
        if source and not is_remote(source):
            with self._tried('load_from'):
                load_weights(model, source, key='load_from', door='start')
            if self.problem is None:
                yield note('load_from', f'{source} fits')
            yield from self._said()

    def _train(self, runner: Runner, batch, dataset, used: int, size: int) -> Iterator[Finding]:
        """One step of the optimizer."""
        settings = self.cfg.optim_wrapper.copy()
        if self.device == 'cpu' and type_name(settings) == 'AmpOptimWrapper':
            settings = Config({k: v for k, v in settings.items() if k in ('optimizer', 'paramwise_cfg', 'constructor')})
            settings = {**settings, 'type': 'OptimWrapper'}
        wrapper = None
        with self._tried('optim_wrapper'):
            wrapper = runner.build_optim_wrapper(settings)
        yield from self._said()
        if wrapper is None:
            return
        model = runner.model
        model.train()
        if self.device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        kept = Kept(model)
        inner = model.module if is_model_wrapper(model) else model
        if is_distiller(self.cfg.model):
            # what DistillHook sets before the first iteration
            inner.progress = Progress(max_epochs=self._epochs(len(dataset), size))
        spikes = SpikeCounter(inner)
        logs, without = {}, []
        try:
            with self._tried('model'):
                with wrapper.optim_context(model), kept, spikes:
                    data = inner.data_preprocessor(batch, True)
                    losses = inner._run_forward(data, mode='loss')
                loss, logs = inner.parse_losses(losses)
                wrapper.backward(loss)
                without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
                gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
                wrapper.step()
        except torch.OutOfMemoryError:
            yield too_large(size)
            return
        if isinstance(self.problem, Finding) and 'OutOfMemoryError' in self.problem.text:
            self.problem = too_large(size)
        if self.problem is not None:
            yield from self._said()
            return
        values = {
            k: float(torch.as_tensor(v).detach()) for k, v in logs.items() if isinstance(v, (float, torch.Tensor))
        }
        infinite = [name for name, value in values.items() if not math.isfinite(value)]
        shown = ', '.join(f'{name} {value:.4g}' for name, value in values.items() if 'loss' in name)
        if infinite:
            yield error('model', f'{", ".join(infinite)} of the first step is not finite ({shown})')
        else:
            yield note('model', f'one step with {number(used, "image")}: {shown}')
        rates = spikes.rates()
        # With few images many channels are silent, so only wholly silent layers are reported.
        if rates.silent:
            yield warning('model', f'in this step {rates.warning(rates.silent)}')
        elif rates:
            yield note('model', f'every layer of neurons fires: {rates.mean:.3f} spikes per neuron and time step')
        if without:
            yield warning(
                'model',
                f'{number(len(without), "parameter")} got no gradient ({", ".join(without[:3])} ...): on several GPUs '
                'set find_unused_parameters=True',
            )
        wrapper.zero_grad()
        yield memory(self.device, inner, wrapper, kept, gradients, used, size)

    def _predict(self, runner: Runner, batch, dataset, used: int, size: int) -> Iterator[Finding]:
        """Make one prediction and give it to the metrics."""
        model, outputs = runner.model, None
        model.eval()
        with self._tried('model'), torch.no_grad():
            outputs = model.val_step(batch)
        yield from self._said()
        if outputs is None:
            return
        yield note('model', f'one prediction of {number(len(outputs), "image")}')
        if self.cfg.get('val_evaluator'):
            with self._tried('val_evaluator'):
                evaluator = runner.build_evaluator(self.cfg.val_evaluator)
                evaluator.dataset_meta = getattr(dataset, 'metainfo', None)
                evaluator.process(data_samples=outputs, data_batch=batch)
            if self.problem is not None:
                yield from self._said()
                return
            with self._tried('val_evaluator'):
                evaluator.evaluate(len(outputs))
            # A metric may need more than one batch.
            yield from (warning(one.key, f'measuring one batch failed: {one.text}') for one in self._said())


def check_loaders(cfg: Mapping) -> Iterator[Finding]:
    """Check that the machine has as many processor cores as the data loaders have workers."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    for part in ('train', 'val', 'test'):
        asked = (cfg.get(f'{part}_dataloader') or {}).get('num_workers') or 0
        key = f'{part}_dataloader.num_workers'
        if asked > there:
            text = f'{asked} workers, but {number(there, "processor core")}: they would wait for each other'
            yield warning(key, text)
        elif part == 'train':
            yield note(key, f'{number(asked, "worker")}, {number(there, "processor core")}')


def _fetched(model: nn.Module) -> set[str]:
    """The checkpoints that the ``init_cfg`` of a model's modules name."""
    found = {pretrained_from(getattr(module, 'init_cfg', None)) for module in model.modules()}
    return {source for source in found if isinstance(source, str)}
