"""Stopping a training at the first NaN or infinity, before it reaches a weight."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor

from mmsnn.registry import HOOKS


class NonFiniteError(RuntimeError):
    """NaN or infinity in a training; the message says where it appeared first."""


# the file in the work dir that says where a training met NaN
RECORD = 'nonfinite.pth'


@HOOKS.register_module()
class FiniteHook(Hook):
    """Ends a training at the first NaN or infinity: in images, boxes, losses, gradients or weights.

    The optimizer does not step in that iteration, and no checkpoint is written. The message names the first loss term,
    module (also of a teacher) or parameter that is not finite. ``nonfinite.pth`` in the work dir records the paths of
    the images, the seed, the iteration and the loss terms.

    With dynamic loss scaling (AMP) gradients may overflow occasionally. The scaler skips these steps by itself, and
    only more than ``most_skipped`` of them in a row end the training, or one with a loss or weight that is not finite.

    Losses and gradients are checked once per iteration, before the optimizer's step; on a GPU this waits for the
    backward pass.

    Args:
        most_skipped: largest number of steps in a row that loss scaling may skip.

    Raises:
        NonFiniteError: in training, or when a checkpoint with NaN or infinity is loaded or saved.
    """

    priority = 'VERY_HIGH'

    def __init__(self, most_skipped: int = 50):
        self.most_skipped = most_skipped
        self.skipped, self.stepped = 0, False
        self.batch = None
        self.losses: Mapping = {}
        self.log: Mapping = {}

    def before_train(self, runner) -> None:
        self.runner = runner
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._parse = self.model.parse_losses
        self.model.parse_losses = self._keep_losses
        wrapper = runner.optim_wrapper
        several = hasattr(wrapper, 'optim_wrappers')
        wrappers = wrapper.optim_wrappers.values() if several else [wrapper]
        self.handles = [w.optimizer.register_step_pre_hook(self._before_step) for w in wrappers]
        self.scalers = [w.loss_scaler for w in wrappers if hasattr(w, 'loss_scaler')]
        self.scales = [scaler.get_scale() for scaler in self.scalers]

    def after_train(self, runner) -> None:
        for handle in self.handles:
            handle.remove()
        del self.model.parse_losses

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.batch = data_batch
        for name, value in tensors(data_batch):
            if value.device.type == 'cpu' and not _is_finite(value):
                self._stop(f'the data: {name} holds {_what(value)}')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # A scaler lowers its scale exactly when it has skipped a step.
        before, self.scales = self.scales, [scaler.get_scale() for scaler in self.scalers]
        lowered = any(now < then for now, then in zip(self.scales, before))
        # An iteration that only accumulates gradients does not count.
        if lowered:
            # A loss or weight that is not finite stays so at any scale.
            self._check_losses_and_weights()
            self.skipped += 1
        elif self.stepped:
            self.skipped = 0
        self.stepped = False
        if self.skipped > self.most_skipped:
            self._stop(f'loss scaling skipped {self.skipped} steps in a row')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        name = _first_bad(checkpoint['state_dict'])
        if name:
            raise NonFiniteError(f'{name} is not finite: the checkpoint is not written')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        name = _first_bad(checkpoint.get('state_dict', {}))
        if name:
            raise NonFiniteError(
                f'the checkpoint holds NaN or infinity in {name}: it comes from a training that failed. Take an '
                'earlier one'
            )

    def _keep_losses(self, losses: dict):
        total, self.log = self._parse(losses)
        self.losses = losses
        return total, self.log

    def _total(self) -> Tensor:
        return sum(v.detach().float().mean() for k, v in self.log.items() if k == 'loss')

    def _before_step(self, optimizer, *_) -> None:
        self.stepped = True
        grads = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
        if _is_finite(norm + self._total().to(norm.device)):
            return
        self._check_losses_and_weights()
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not _is_finite(parameter.grad):
                self._stop(f'the gradient of {name} holds {_what(parameter.grad)}, the losses are finite')
        self._stop('the norm of the gradients overflows, each of them is finite')

    def _check_losses_and_weights(self) -> None:
        for name, value in self.losses.items():
            for term in value if isinstance(value, list | tuple) else [value]:
                if isinstance(term, Tensor) and not _is_finite(term):
                    module = self._first_module()
                    self._stop(f'{name} is {_what(term)}' + (f'; {module}' if module else ''))
        for name, parameter in self.model.named_parameters():
            if not _is_finite(parameter):
                self._stop(f'the weight {name} holds {_what(parameter)}')

    def _first_module(self) -> str:
        """A text naming the first module whose output is not finite, from a second forward pass of the batch."""
        first: list[str] = []

        def watch(name):
            def hook(module, _, output):
                bad = [value for _, value in tensors(output) if not _is_finite(value)]
                if bad and not first:
                    first.append(
                        f'the output of {name} ({type(module).__name__}) is the first that holds {_what(bad[0])}'
                    )

            return hook

        networks = {'': self.model}
        networks |= {f'{name}.': t.model for name, t in getattr(self.model, 'teachers', {}).items()}
        handles = [
            module.register_forward_hook(watch(prefix + name))
            for prefix, network in networks.items()
            for name, module in network.named_modules()
            if name and not any(module.children())
        ]
        try:
            with torch.no_grad():
                self.model._run_forward(self.model.data_preprocessor(self.batch, True), mode='loss')
        # This forward pass only adds detail to the message.
        except Exception as error:
            print_log(f'the forward pass could not be repeated ({error})', logger='current', level=logging.WARNING)
        finally:
            for handle in handles:
                handle.remove()
        return first[0] if first else ''

    def _stop(self, reason: str) -> None:
        runner = self.runner
        record = dict(
            reason=reason,
            iter=runner.iter,
            epoch=runner.epoch,
            seed=runner.seed,
            images=[str(path) for path in _paths(self.batch)],
            losses={k: v.detach().cpu().tolist() for k, v in self.log.items() if isinstance(v, Tensor)},
        )
        path = Path(runner.work_dir, RECORD)
        torch.save(record, path)
        raise NonFiniteError(
            f'iteration {runner.iter + 1}: {reason}. The optimizer has not stepped; {path} holds the images, the seed '
            'and the losses. A smaller learning rate, clipped gradients (optim_wrapper.clip_grad) or cleaner '
            'data may help'
        )


def tensors(value, name: str = '') -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in nested containers and in mmengine's data elements, with their names."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping) or hasattr(value, 'all_items'):
        for key, item in value.items() if isinstance(value, Mapping) else value.all_items():
            yield from tensors(item, f'{name}.{key}' if name else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from tensors(item, f'{name}.{i}' if name else str(i))
    # mmdet's boxes
    elif isinstance(getattr(value, 'tensor', None), Tensor):
        yield from tensors(value.tensor, name)


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value.detach()).all())


def _what(value: Tensor) -> str:
    return 'NaN' if bool(torch.isnan(value).any()) else 'infinity'


def _first_bad(state: Mapping) -> str | None:
    bad = (k for k, v in state.items() if isinstance(v, Tensor) and v.is_floating_point() and not _is_finite(v))
    return next(bad, None)


def _paths(batch) -> Iterator[str]:
    """The paths of the images in a batch."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    for sample in samples if isinstance(samples, list | tuple) else []:
        yield getattr(sample, 'metainfo', {}).get('img_path', 'unknown')
