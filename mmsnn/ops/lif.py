"""Public multi-step LIF: argument checks, then the op."""

import torch
from torch import Tensor

from . import reference
from .checks import check_flag, check_input, check_potential
from .extension import use
from .neuron import NeuronSettings, gather, takes_settings
from .transforms import runs_plain


@takes_settings
def lif(
    x: Tensor,
    T: int,
    settings: NeuronSettings | None = None,
    *,
    v_init: Tensor | None = None,
    return_v: bool = False,
    **keywords,
) -> Tensor | tuple[Tensor, Tensor]:
    """Spikes of leaky integrate-and-fire neurons over T time steps; `mmsnn.ops.reference` holds the equations.

    Neurons keep no state: the membrane potential starts at ``v_init`` (default: ``v_reset``, 0 for a soft reset) and is
    gone afterwards unless ``return_v``.

    Args:
        x: input current, floating point, read as ``[T, N]``: ``[T*B, ...]`` and ``[T, B, ...]`` both do.
        T: number of time steps, outermost in ``x``'s first dimension.
        settings: settings of the neuron in one object; None: the defaults.
        v_init: initial membrane potential, as many elements as one time step of ``x``.
        return_v: also return the potential after the last time step.
        keywords: settings by their names in `mmsnn.NeuronSettings` (``tau=2.0, v_threshold=1.0, ...``), in place of
            those in ``settings``. A tensor ``tau`` of one element is a learned time constant and receives a gradient
            (PLIF, Fang et al., ICCV 2021).

    Returns:
        Spikes in the shape and type of ``x``; with ``return_v`` also the potential, in float32 (float64 for float64),
        shaped like one time step: ``x.shape[1:]`` for ``[T, ...]`` input, ``[B, ...]`` for ``[T*B, ...]``.

    Raises:
        TypeError: ``x`` is no floating-point tensor, a keyword is no setting, or a setting has the wrong type.
        ValueError: T does not divide the first dimension, ``v_init`` does not fit, or a setting is out of its range.
    """
    check_input(x, T)
    if not torch.compiler.is_compiling():
        use(x.device.type)
    settings, tau = gather(settings, keywords, x.device)
    check_flag('return_v', return_v)
    check_potential(v_init, x, T)
    if settings.encoded is None or runs_plain(settings):
        return reference.lif_forward(x, T, settings, tau, v_init, return_v)
    out, v = torch.ops.mmsnn.lif.default(x, T, *settings.encoded, tau, v_init, return_v)
    return (out, v) if return_v else out
