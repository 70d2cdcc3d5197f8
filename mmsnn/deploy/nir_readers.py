"""Reading NIR files back with two other libraries, and comparing their outputs with those of the network."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .extras import need
from .nir_nodes import DT
from .steps import Steps
from .to_nir import NirExport

Reader = Callable[[Path], nn.Module]


class _Neuron(nn.Module):
    """NIR's IF and LIF in Euler steps of `DT`; as NIR defines, it fires above the threshold and not at it."""

    def __init__(self, node):
        super().__init__()
        for name in ('tau', 'r', 'v_leak', 'v_threshold', 'v_reset'):
            value = getattr(node, name, None)
            self.register_buffer(name, None if value is None else torch.from_numpy(value))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = self.v_reset.expand_as(x) if state is None else state
        if self.tau is None:
            v = v + DT * self.r * x
        else:
            v = v + DT / self.tau * (self.v_leak - v + self.r * x)
        spikes = (v > self.v_threshold).to(x)
        return spikes, torch.where(spikes > 0, self.v_reset, v)


def read_with_nirtorch(path: Path) -> nn.Module:
    """The network of a NIR file as nirtorch builds it: ``(x, state)`` to ``(out, state)``, ``x`` without a batch."""
    nir, nirtorch = need('nir', 'nir', 'nirtorch')

    def affine(node):
        # nirtorch's own Affine leaves the bias at its random initial value
        layer = nn.Linear(node.weight.shape[-1], node.weight.shape[-2])
        layer.weight.data, layer.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
        return layer

    return nirtorch.nir_to_torch(nir.read(str(path)), {nir.IF: _Neuron, nir.LIF: _Neuron, nir.Affine: affine})


def read_with_spikingjelly(path: Path) -> nn.Module:
    """The network of a NIR file as SpikingJelly builds it: ``(x, state)`` to ``(out, state)``, ``x`` with a batch."""
    need('spikingjelly', 'spikingjelly')
    from spikingjelly.activation_based import nir_exchange

    return nir_exchange.import_from_nir(str(path), dt=DT)


READERS: dict[str, Reader] = {'nirtorch': read_with_nirtorch, 'SpikingJelly': read_with_spikingjelly}


def read_back(export: NirExport, paths: list[Path], steps: Tensor) -> list[dict[str, float | str]]:
    """Run every part in every reader and compare its output, averaged over time, with that of the network.

    Args:
        export: the export that was written.
        paths: the files of its parts.
        steps: inputs ``[T, 1, ...]`` of one stream.

    Returns:
        For every part a dict from the name of the reader to the largest absolute difference, or to the error in words.
    """
    runner, values = Steps(export.module), []
    for step in steps:
        nodes = runner.run_step(step)
        values.append([(_tensor(nodes[p.source]), _tensor(nodes[p.sink])) for p in export.parts])
    result = []
    for k, path in enumerate(paths):
        expected = torch.stack([value[k][1] for value in values]).mean(0)
        differences: dict[str, float | str] = {}
        for name, read in READERS.items():
            try:
                network, state, outputs = read(path), None, []
                with torch.no_grad():
                    for value in values:
                        x = value[k][0].reshape(1, *export.parts[k].graph.nodes['input'].input_type['input'])
                        out, state = network(x if name == 'SpikingJelly' else x[0], state)
                        outputs.append(out)
                mean = torch.stack(outputs).mean(0).reshape(expected.shape)
                differences[name] = (mean - expected).abs().max().item()
            # a reader may lack a feature, or may not be installed
            except Exception as error:
                differences[name] = f'{type(error).__name__}: {error}'.splitlines()[0]
        result.append(differences)
    return result


def _tensor(value) -> Tensor:
    return value[0] if isinstance(value, tuple) else value
