"""IF, LIF and PLIF neurons; `mmsnn.ops.reference` has their equations."""

import math

import torch
from torch import Tensor, nn

from mmsnn.ops import NeuronSettings
from mmsnn.registry import MODELS

from .base import Neuron


@MODELS.register_module()
class IF(Neuron):
    """Integrate-and-fire: no leak. Arguments of `Neuron` without ``tau`` and ``decay_input``."""

    defaults = NeuronSettings(tau=None)

    def __init__(self, T: int = 4, **settings):
        if 'tau' in settings or 'decay_input' in settings:
            raise TypeError("IF has no leak: remove 'tau' and 'decay_input', or use type='LIF'")
        super().__init__(T, **settings)


@MODELS.register_module()
class LIF(Neuron):
    """Leaky integrate-and-fire; arguments of `Neuron`.

    Raises:
        ValueError: ``tau`` is None (that neuron is IF).
    """

    def __init__(self, T: int = 4, *, tau: float = 2.0, **settings):
        if tau is None:
            raise ValueError("LIF needs a tau of at least 1 time step; use type='IF' for no leak")
        super().__init__(T, tau=tau, **settings)


@MODELS.register_module()
class PLIF(Neuron):
    """LIF whose time constant is learned, one per module (Fang et al., ICCV 2021): ``tau = 1 / sigmoid(w)``.

    Args:
        init_tau: initial time constant in time steps, above 1.
        settings: as in `Neuron`.

    Raises:
        ValueError: ``init_tau <= 1``.
    """

    def __init__(self, T: int = 4, *, init_tau: float = 2.0, **settings):
        init_tau = settings.pop('tau', init_tau)
        super().__init__(T, tau=init_tau, **settings)
        if init_tau is None or init_tau <= 1:
            raise ValueError(f'init_tau must be above 1 time step, got {init_tau}')
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    def extra_repr(self) -> str:
        # FSDP may not have gathered the parameter.
        learned = f'{self.tau.item():.4g}' if self.w.numel() and not self.w.is_meta else '?'
        return super().extra_repr().replace(f'tau={self.settings.tau}', f'tau={learned} (learned)')

    @property
    def tau(self) -> Tensor:
        """The learned time constant, in time steps."""
        return 1 / torch.sigmoid(self.w)

    def learned(self) -> dict[str, Tensor]:
        return dict(tau=self.tau)
