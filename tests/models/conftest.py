"""SpikingJelly's ResNets beside ours, a network beside itself with its norms apart, the table of ``test_mixing``."""

import re

import pytest
import torch

from mmsnn.neurons import base


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


@pytest.fixture
def check_fused(monkeypatch):
    """``check(make, x, sites)``: ``make(neuron)`` trains alike whether ``sites`` norms and neurons are one op or two.

    In double precision, where no spike hangs on the rounding.
    """

    def check(make, x, sites):
        monkeypatch.setattr('mmsnn.neurons.base.FUSE_FROM', 0)
        calls, op = [], base.bn_lif
        monkeypatch.setattr('mmsnn.neurons.base.bn_lif', lambda *args, **kwargs: calls.append(1) or op(*args, **kwargs))
        models = [make(dict(type='LIF', fuse_norm=fuse)).double().train() for fuse in (True, False)]
        models[1].load_state_dict(models[0].state_dict())
        calls.clear()
        outs = [model(x.double()) for model in models]
        assert len(calls) == sites and all(out.std() > 0.1 for out in outs[0])
        for maps in outs:
            sum((out * out).sum() for out in maps).backward()
        torch.testing.assert_close(outs[0], outs[1])
        for (name, a), b in zip(models[0].named_parameters(), models[1].parameters()):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9, msg=name)
        for name, value in models[0].state_dict().items():
            torch.testing.assert_close(value, models[1].state_dict()[name], msg=name)

    return check


def pytest_terminal_summary(terminalreporter):
    """The table of ``test_mixing``: what each backbone did in each model, and why it was refused."""
    cells, why = {}, {}
    for outcome in ('passed', 'failed'):
        for report in terminalreporter.stats.get(outcome, ()):
            # the last entry of a test is the one that counts
            found = dict(getattr(report, 'user_properties', ())).get('mixing')
            if found:
                model, name, result, *reason = found
                cells[model, name] = result if outcome == 'passed' else 'FAILED'
                # the same but for the backbone's class
                reason = [re.sub(name.split()[0], 'it', text, count=1) for text in reason]
                if outcome == 'failed':
                    reason = [str(report.longrepr.reprcrash.message).splitlines()[0]]
                for text in reason:
                    why.setdefault((model, text), []).append(name)
    if not cells:
        return
    models, names = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    heads = [re.split('(?=ResNet|VGG|SpikeFormer)| ', name, maxsplit=1) for name in names]
    wide = [max(7, *map(len, head)) for head in heads]
    rows = [('', [head[0] for head in heads]), ('', [head[1] if head[1:] else '' for head in heads])]
    rows += [(model, [cells.get((model, name), '') for name in names]) for model in models]
    terminalreporter.section('spiking backbones in the models of mmdet, mmseg and mmpretrain')
    for first, row in rows:
        terminalreporter.line(f'{first:20} ' + ' '.join(f'{cell:{n}}' for cell, n in zip(row, wide)).rstrip())
    for (model, text), whose in why.items():
        terminalreporter.line(f'{model}: {", ".join(whose)}: {text}')
