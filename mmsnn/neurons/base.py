"""What all neurons share: settings, T, and a call of the op."""

import torch.distributed as dist
from mmengine.model.utils import _BatchNormXd
from torch import Tensor, nn

from mmsnn.layers.norm import TDBN
from mmsnn.layers.time import TimeAware, check_encoded
from mmsnn.ops import bn_lif, lif, reference
from mmsnn.ops.lif import check_neuron

# the last is what mmengine makes of SyncBN in a single process
FUSABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, TDBN, _BatchNormXd)
# elements from which on one op is faster than two, whose host time is less
FUSE_FROM = 2**17


class Neuron(TimeAware, nn.Module):
    """A layer of spiking neurons as an activation: ``[T*B, ...]`` in, spikes of the same shape out.

    Stateless: the membrane lives inside one forward, so one module may serve at several places and nothing needs a
    reset. For streaming, pass the membrane in and out.

    Args:
        T: time steps folded into the first dimension.
        tau: membrane time constant in time steps, None for no leak.
        v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha: as in `mmsnn.ops.lif`.
        levels: largest integer a neuron emits in one step.
        fuse_norm: whether a spiking backbone runs this neuron and the batch norm in front of it as one op
            (`mmsnn.ops.bn_lif`), which is faster for all but small maps, and keeps half as much.
        inplace: accepted, because mmcv's ConvModule passes it to every activation, and ignored.

    Attributes:
        owner: the name of a neuron that belongs to a backbone with an encoder, and fires in its forward alone; None for
            one that stands free.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of range; the message names it.
    """

    owner: str | None = None

    def __init__(
        self,
        T: int = 4,
        *,
        tau: float | None = 2.0,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: str = 'atan',
        alpha: float | None = None,
        levels: int = 1,
        fuse_norm: bool = True,
        inplace: bool = False,
    ):
        super().__init__()
        self.fuse_norm = fuse_norm
        self.settings = dict(
            tau=tau, v_threshold=v_threshold, v_reset=v_reset, surrogate=surrogate, alpha=alpha, levels=levels
        )
        check_neuron(**self.settings)
        self.settings.update(decay_input=decay_input, detach_reset=detach_reset)
        self.T = T

    def extra_repr(self) -> str:
        defaults = dict(levels=1, alpha=None)
        shown = {k: v for k, v in self.settings.items() if k not in defaults or v != defaults[k]}
        return f'T={self.T}, ' + ', '.join(f'{k}={v}' for k, v in shown.items())

    @property
    def tau(self) -> float | Tensor | None:
        """Membrane time constant in time steps."""
        return self.settings['tau']

    def forward(self, x: Tensor, v_init: Tensor | None = None, return_v: bool = False, norm: nn.Module | None = None):
        """Spikes of ``x`` ``[T*B, ...]``; with ``return_v`` also the last potential ``[B, ...]``.

        Args:
            x: input current.
            v_init: initial potential.
            return_v: also return the last potential.
            norm: batch norm that ``x`` has still to pass, as `can_fuse` allows.

        Raises:
            ValueError: T does not divide the first dimension.
            TimeFoldingError: the neuron belongs to a backbone whose encoder did not run.
        """
        if self.owner is not None:
            check_encoded(self.owner, x, self.T)
        settings = {**self.settings, 'tau': self.tau, 'v_init': v_init, 'return_v': return_v}
        if norm is None:
            return lif(x, self.T, **settings)
        return bn_lif(x, self.T, **_norm_arguments(norm), **settings)

    def potentials(self, x: Tensor, spikes: Tensor) -> Tensor:
        """Membrane potential of every step before it fires, ``[T*B, ...]``, from the input and this neuron's spikes."""
        return reference.potentials(x, spikes, self.T, **{**self.settings, 'tau': self.tau})

    def can_fuse(self, norm: nn.Module) -> bool:
        """Whether ``norm`` and this neuron may run as one op: a plain batch norm, whose output nobody watches."""
        if _is_watched(norm):
            # for good: activation checkpointing runs this again when the hooks may be gone
            self.fuse_norm = False
        return self.fuse_norm and type(norm) in FUSABLE

    def after(self, norm: nn.Module, x: Tensor) -> Tensor:
        """``self(norm(x))``, in one op where that is possible and pays; ``norm`` may be a sequence that ends in one."""
        if isinstance(norm, nn.Sequential) and not _is_watched(norm):
            *layers, norm = norm
            for layer in layers:
                x = layer(x)
        # processes that share statistics must all take the same way, whatever the size of their batches
        pays = x.numel() >= FUSE_FROM or isinstance(norm, nn.SyncBatchNorm)
        return self(x, norm=norm) if pays and self.can_fuse(norm) else self(norm(x))


def _is_watched(module: nn.Module) -> bool:
    hooks = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'
    return any(getattr(module, name) for name in hooks)


def _norm_arguments(norm: nn.Module) -> dict:
    """A batch norm module as arguments of `mmsnn.ops.bn_lif`; counts the batch, as the module would."""
    momentum = norm.momentum
    batch = norm.training or norm.running_mean is None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    group = None
    if isinstance(norm, nn.SyncBatchNorm) and batch and norm.training and dist.is_available() and dist.is_initialized():
        group = norm.process_group or dist.group.WORLD
        group = group if dist.get_world_size(group) > 1 else None
    tracked = not batch or norm.track_running_stats
    return dict(
        running_mean=norm.running_mean if tracked else None,
        running_var=norm.running_var if tracked else None,
        weight=norm.weight,
        bias=norm.bias,
        training=batch,
        momentum=0.0 if momentum is None else momentum,
        eps=norm.eps,
        group=group,
    )
