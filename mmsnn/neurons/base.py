"""What all neurons share: settings, T, and a call of the op."""

from torch import Tensor, nn

from mmsnn.layers.time import TimeAware
from mmsnn.ops import lif
from mmsnn.ops.lif import check_neuron


class Neuron(TimeAware, nn.Module):
    """A layer of spiking neurons as an activation: ``[T*B, ...]`` in, spikes of the same shape out.

    Stateless: the membrane lives inside one forward, so one module may serve at several places and nothing needs a
    reset. For streaming, pass the membrane in and out.

    Args:
        T: time steps folded into the first dimension.
        tau: membrane time constant in time steps, None for no leak.
        v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha: as in `mmsnn.ops.lif`.
        levels: largest integer a neuron emits in one step.
        inplace: accepted, because mmcv's ConvModule passes it to every activation, and ignored.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of range; the message names it.
    """

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
        inplace: bool = False,
    ):
        super().__init__()
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

    def forward(self, x: Tensor, v_init: Tensor | None = None, return_v: bool = False):
        """Spikes of ``x`` ``[T*B, ...]``; with ``return_v`` also the last potential ``[B, ...]``.

        Raises:
            ValueError: T does not divide the first dimension.
        """
        return lif(x, self.T, **{**self.settings, 'tau': self.tau}, v_init=v_init, return_v=return_v)
