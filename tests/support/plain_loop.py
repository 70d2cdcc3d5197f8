"""Networks one time step after the other, in double precision: what folded time is checked against."""

import torch
import torch.nn.functional as F


class PlainLoop:
    """Layers by their names in a state dict, in eval mode; each neuron's potential waits here for the next step.

    Neurons are the default ones: tau 2 for membrane and input, threshold 1, reset to 0.
    """

    def __init__(self, model: torch.nn.Module):
        self.state = {name: value.double() for name, value in model.state_dict().items()}
        self.v = {}

    def has(self, name: str) -> bool:
        return any(key.startswith(f'{name}.') for key in self.state)

    def conv(self, x, name, stride=1):
        weight = self.state[f'{name}.weight']
        return F.conv2d(x, weight, self.state.get(f'{name}.bias'), stride, weight.shape[-1] // 2)

    def norm(self, x, name):
        names = ('running_mean', 'running_var', 'weight', 'bias')
        return F.batch_norm(x, *(self.state[f'{name}.{n}'] for n in names))

    def linear(self, x, name):
        return x @ self.state[f'{name}.weight'].T + self.state[f'{name}.bias']

    def spike(self, x, site):
        """Spikes of the neuron called ``site``."""
        h = self.v.get(site, torch.zeros_like(x)) / 2 + x / 2
        s = (h >= 1).double()
        self.v[site] = h * (1 - s)
        return s

    def over(self, frames, step) -> list:
        """Means over time of what ``step`` gives for each of ``frames`` ``[B, T, C, H, W]``."""
        steps = [step(self, frame.double()) for frame in frames.unbind(1)]
        return [torch.stack(outs).mean(0) for outs in zip(*steps)]
