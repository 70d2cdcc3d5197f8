"""The card of an exported network: the facts that its users need."""

import dataclasses
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor, nn

from mmsnn.layers import Readout, get_time_steps
from mmsnn.neurons import FiringRates

from .network import encoder_of, neurons_of

PACKAGES = ('torch', 'onnx', 'onnxruntime', 'nir', 'nirtorch', 'spikingjelly')
READOUT = dict(mean='mean over the time steps', none='none: the next module combines the time steps')


def card(model: nn.Module, shape: tuple[int, ...], outputs: dict[str, Tensor], rates: FiringRates | None) -> dict:
    """The facts about ``model`` as a dict that can be written as JSON.

    Args:
        model: a task model or any network.
        shape: shape of one input without the batch, ``(C, H, W)`` or for event frames ``(T, C, H, W)``.
        outputs: outputs by name, for one batch.
        rates: the measured firing rates, or None.
    """
    from mmsnn import __version__

    neurons = {}
    for name, neuron in neurons_of(model):
        tau = neuron.tau
        settings = {**dataclasses.asdict(neuron.settings), 'tau': float(tau) if isinstance(tau, Tensor) else tau}
        # it repeats the settings in the form that the kernels take
        settings.pop('encoded')
        neurons.setdefault(json.dumps(dict(type=type(neuron).__name__, **settings), sort_keys=True), []).append(name)
    encoder = encoder_of(model)
    return dict(
        T=get_time_steps(model),
        neurons=[dict(json.loads(settings), layers=len(names)) for settings, names in neurons.items()],
        coding=_coding(encoder, shape),
        readout=sorted({READOUT[m.mode] for m in model.modules() if isinstance(m, Readout)}),
        inputs=dict(name='inputs', shape=['batch', *shape], dtype='float32', **_normalisation(model)),
        outputs={name: ['batch', *value.shape[1:]] for name, value in outputs.items()},
        classes=getattr(model, 'classes', None),
        firing_rate=None if rates is None else dict(mean=rates.mean, layers=dict(rates), silent=rates.silent),
        parameters=sum(p.numel() for p in model.parameters()),
        versions=dict(mmsnn=__version__, **{name: v for name in PACKAGES if (v := _version(name))}),
    )


def _coding(encoder, shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return 'event frames: one frame a time step'
    return 'none' if encoder is None else 'direct: the same image at every time step'


def _normalisation(model: nn.Module) -> dict:
    """How the data preprocessor normalises an image before the network is given it."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    swaps = getattr(preprocessor, '_channel_conversion', None)
    swaps = getattr(preprocessor, 'channel_conversion', None) if swaps is None else swaps
    swaps = getattr(preprocessor, 'to_rgb', None) if swaps is None else swaps
    return dict(
        mean=None if mean is None else mean.flatten().tolist(),
        std=None if std is None else std.flatten().tolist(),
        # OpenMMLab's pipelines read images as BGR
        channels='RGB' if swaps else 'as the pipeline reads them (OpenMMLab: BGR)',
        pad_size_divisor=getattr(preprocessor, 'pad_size_divisor', 1),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
