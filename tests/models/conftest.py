"""SpikingJelly's ResNets beside ours."""

import pytest
import torch


class JellyStages:
    """SpikingJelly's network in multi-step mode, which returns its four stages ``[T, B, ...]`` instead of logits."""

    def __init__(self, model, reset):
        self.model, self.reset, self.outs = model, reset, []
        for i in range(1, 5):
            getattr(model, f'layer{i}').register_forward_hook(lambda *args: self.outs.append(args[2]))

    def __call__(self, frames):
        self.outs.clear()
        self.model(frames)
        self.reset(self.model)
        return list(self.outs)

    def train(self, mode=True):
        self.model.train(mode)
        return self


@pytest.fixture
def spiking_jelly():
    """``make(kind, depth, ours, **settings)``: `JellyStages` of LIF neurons with the weights of ``ours``."""
    functional = pytest.importorskip('spikingjelly.activation_based.functional')
    from spikingjelly.activation_based import neuron, surrogate
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet

    modules = dict(sew_resnet=sew_resnet, spiking_resnet=spiking_resnet)

    def make(kind, depth, ours, **settings):
        # nothing to initialise: all weights are replaced
        with torch.device('meta'):
            model = getattr(modules[kind], f'{kind}{depth}')(
                spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan(), **settings
            )
        model.fc = torch.nn.Identity()
        model.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()}, assign=True)
        functional.set_step_mode(model, 'm')
        return JellyStages(model.eval(), functional.reset_net)

    return make
