"""Encoders, which fold time steps into the batch at the beginning of a network, and readouts, which remove them."""

from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmsnn.registry import MODELS

from .time import TimeAware, fold, unfold

READOUTS = ('mean', 'none')


@MODELS.register_module()
class DirectEncoder(TimeAware, nn.Module):
    """Direct encoding: every time step gets the same analog image; event frames keep their own steps.

    As all steps are equal, `after_stem` runs the stateless layers at the beginning of a network once instead of T
    times.

    Args:
        T: time steps.

    Attributes:
        same_every_step: whether an image is the same at every step.
    """

    same_every_step = True

    def __init__(self, T: int):
        super().__init__()
        self.T = T

    def is_event(self, x: Tensor) -> bool:
        """Whether ``x`` holds event frames ``[B, T, C, H, W]``.

        Raises:
            ValueError: ``x`` is neither ``[B, C, H, W]`` nor event frames of T steps.
        """
        if x.dim() == 5 and x.shape[1] != self.T:
            raise ValueError(
                f'event frames {tuple(x.shape)} hold {x.shape[1]} time steps, the backbone has T={self.T}: '
                'set backbone.T, or the number of frames in the dataset'
            )
        if x.dim() not in (4, 5):
            raise ValueError(f'expected images [B, C, H, W] or event frames [B, T, C, H, W], got {tuple(x.shape)}')
        return x.dim() == 5

    def repeat(self, x: Tensor) -> Tensor:
        """Repeat ``[B, ...]`` to ``[T*B, ...]``, with the same values at every step."""
        if self.T == 1:
            return x
        # A map of `mmsnn.event_driven` that is not computed yet has its own way to be repeated.
        if hasattr(x, 'repeated'):
            return x.repeated(self.T)
        # `fold` alone would turn the memory format channels_last into channels first.
        # in this order, because vmap answers the first question only
        last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        x = x.movedim(1, -1) if last else x
        if torch.compiler.is_compiling():
            # Inductor fails at `flatten` of strided memory before a convolution where the size of images may change.
            x = x.repeat(self.T, *[1] * (x.dim() - 1))
        else:
            x = fold(x.unsqueeze(0).expand(self.T, *x.shape))
        return x.movedim(-1, 1) if last else x

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``[B, C, H, W]`` or event frames ``[B, T, C, H, W]`` as ``[T*B, C, H, W]``."""
        if not self.is_event(x):
            return self.repeat(x)
        # for the reason in `repeat`
        return torch.cat(x.unbind(1)) if torch.compiler.is_compiling() else fold(x.transpose(0, 1))

    def after_stem(self, x: Tensor, conv, norm=None, neuron=None, pool=None) -> Tensor:
        """Encode ``x`` and run the first layers of a network: convolution, norm, pooling and neuron.

        An image that is the same at every step passes the layers before the neuron once, and the result is repeated T
        times. Event frames, encoders whose steps differ, and norms that treat the steps differently (TEBN) need the
        time steps from the beginning, so there the input is encoded first.

        Args:
            x: images ``[B, C, H, W]`` or event frames ``[B, T, C, H, W]``.
            conv: a convolution, or any stateless layers.
            norm, neuron, pool: layers; None leaves one out.

        Returns:
            ``[T*B, C', H', W']``.
        """
        inside = [module for layer in (conv, norm) if layer is not None for module in layer.modules()]
        mixes_time = any(getattr(module, 'mixes_time', False) for module in inside)
        once = self.same_every_step and not self.is_event(x) and not mixes_time
        x = conv(x if once else self(x))
        if not once and pool is None and None not in (norm, neuron):
            return neuron.after_norm(norm, x)
        x = x if norm is None else norm(x)
        x = x if pool is None else pool(x)
        x = self.repeat(x) if once else x
        return x if neuron is None else neuron(x)


@MODELS.register_module()
class PoissonEncoder(DirectEncoder):
    """Poisson (rate) encoding: at every step each pixel spikes independently, with its intensity as probability.

    Event frames keep their own steps. The spikes carry no gradient to the image. In training, the random numbers depend
    only on ``seed``, the rank of the process and the number of calls so far. Checkpoints hold the number of calls as
    the module's extra state, so that a resumed training draws the same numbers as an uninterrupted one; a checkpoint
    without it loads, and counting starts at 0. In eval mode every call draws the same numbers.

    Args:
        T: time steps.
        mean, std: mean and standard deviation of the data preprocessor, whose normalisation is undone first; None for
            images in [0, 1].
        max_value: value of white pixels, in units of ``mean`` and ``std``.
        seed: seed of the random numbers.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given.
    """

    same_every_step = False

    def __init__(self, T: int, mean=None, std=None, max_value: float = 255.0, seed: int = 0):
        super().__init__(T)
        if (mean is None) != (std is None):
            raise ValueError(f'PoissonEncoder undoes a normalisation by mean and std, got mean={mean} and std={std}')
        self.normalised = mean is not None
        for name, value in dict(mean=mean, std=std).items() if self.normalised else ():
            value = torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1) / max_value
            self.register_buffer(name, value, persistent=False)
        self.seed = seed
        self.calls = 0

    def get_extra_state(self) -> Tensor:
        """The number of calls in training, as a tensor, because code that reads state dicts expects tensors."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        state_dict.setdefault(f'{prefix}_extra_state', torch.tensor(0))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def repeat(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to spikes ``[T*B, C, H, W]``."""
        rate = x * self.std + self.mean if self.normalised else x
        return fold(self._uniform((self.T, *x.shape), x.device) < rate.float()).to(x.dtype)

    @torch.compiler.disable
    def _uniform(self, shape: tuple, device: torch.device) -> Tensor:
        stream = 0
        if self.training:
            self.calls += 1
            stream = self.calls
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        seed = int(np.random.SeedSequence((self.seed, rank, stream)).generate_state(1)[0])
        return torch.rand(shape, device=device, generator=torch.Generator(device).manual_seed(seed))


class Readout(TimeAware, nn.Module):
    """Removes the time steps from a tensor into which they are folded.

    Args:
        T: time steps.
        mode: ``mean`` gives the mean over time ``[B, ...]``; ``none`` keeps ``[T*B, ...]``.

    Raises:
        ValueError: unknown ``mode``.
    """

    def __init__(self, T: int, mode: str = 'mean'):
        super().__init__()
        if mode not in READOUTS:
            raise ValueError(f'readout must be one of {", ".join(READOUTS)}, got {mode!r}')
        self.T = T
        self.mode = mode
        self.short_T: int | None = None

    def extra_repr(self) -> str:
        return f'T={self.T}, mode={self.mode}'

    def forward(self, x: Tensor) -> Tensor:
        """``[T*B, ...]`` to ``[B, ...]`` (mean over time) or unchanged; inside `read_short` to ``[2*B, ...]``."""
        if self.mode == 'none':
            return x
        x = unfold(x, self.T)
        return x.mean(0) if self.short_T is None else short_and_full(x, self.short_T)


def short_and_full(x: Tensor, short_T: int) -> Tensor:
    """``[T, B, ...]`` to ``[2*B, ...]``: the mean over the first ``short_T`` steps, then that over all."""
    return torch.cat([x[:short_T].mean(0), x.mean(0)])


@contextmanager
def read_short(model: nn.Module, short_T: int | None):
    """Context in which the readouts of ``model`` return the means over ``short_T`` and over all steps.

    They return both as `short_and_full` does, so the layers after them process twice the batch. None changes nothing.
    """
    readouts = [m for m in model.modules() if isinstance(m, Readout)]
    for readout in readouts:
        readout.short_T = short_T
    try:
        yield
    finally:
        for readout in readouts:
            readout.short_T = None
