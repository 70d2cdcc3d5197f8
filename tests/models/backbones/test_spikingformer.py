"""Spikingformer: equal to a plain loop over time and pairs of tokens."""

import pytest
import torch
from formers import DOUBLE, Questions, Steps, pooled

from mmsnn.models import Spikingformer


def conv_norm(steps, name, x):
    return steps.norm(f'{name}_bn', steps.conv(f'{name}_conv', x))


def plain(steps, x, pool, heads, cml=False):
    """The release's, and CML's order."""
    x = conv_norm(steps, 'patch_embed.proj', x)
    for i in range(1, 5):
        if cml and pool[i - 1]:
            x = pooled(x)
        x = steps.lif(f'patch_embed.proj{i}_lif', x)
        if not cml and pool[i - 1]:
            x = pooled(x)
        x = conv_norm(steps, f'patch_embed.proj{i}', x)
    outs = []
    for i in range(2):
        attn, mlp = f'block.{i}.attn', f'block.{i}.mlp'
        spikes = steps.lif(f'{attn}.proj_lif', x)
        q, k, v = (
            steps.lif(f'{attn}.{name}_lif', conv_norm(steps, f'{attn}.{name}', spikes)) for name in ('q', 'k', 'v')
        )
        out = steps.lif(f'{attn}.attn_lif', steps.maps(steps.attend(q, k, v, heads), x), 0.5)
        x = x + conv_norm(steps, f'{attn}.proj', out)
        inner = conv_norm(steps, f'{mlp}.mlp1', steps.lif(f'{mlp}.mlp1_lif', x))
        x = x + conv_norm(steps, f'{mlp}.mlp2', steps.lif(f'{mlp}.mlp2_lif', inner))
        outs.append(x)
    return outs


class TestSpikingformer(Questions):
    cls = Spikingformer
    arch = dict(embed_dims=32, num_layers=2, num_heads=4)
    strides, widths = (16, 16), (32, 32)
    first = 'patch_embed.proj_conv'

    def plain(self, steps, x):
        return plain(steps, x, (True,) * 4, heads=4)

    @pytest.mark.parametrize('pool', [(True,) * 4, (False, False, True, True)], ids=['imagenet', 'cifar'])
    @pytest.mark.parametrize('cml', [False, True])
    def test_forms(self, pool, cml):
        model = self.make((48, 32), arch=dict(self.arch, pool=pool), cml=cml).eval().double()
        frames = torch.randn(3, 2, 3, 48, 32, dtype=DOUBLE)
        for x in (frames, frames[:, 0]):
            still = x if x.dim() == 5 else x.unsqueeze(1).expand(-1, 2, -1, -1, -1)
            steps = Steps(model.state_dict())
            expected = steps.run(lambda x, steps=steps: plain(steps, x, pool, 4, cml), still)
            other = steps.run(lambda x, steps=steps: plain(steps, x, pool, 4, not cml), still)
            for got, e, o in zip(model(x), expected, other):
                torch.testing.assert_close(got, e)
                assert not torch.allclose(e, o)

    def test_names_of_the_release(self):
        """ImageNet's, but for the LayerNorms that nothing calls."""
        keys = {k.rpartition('.')[0] for k in Spikingformer(self.arch).state_dict()}
        sites = [f'patch_embed.proj{i}' for i in ('', 1, 2, 3, 4)]
        for i in range(2):
            sites += [f'block.{i}.{s}' for s in ('attn.q', 'attn.k', 'attn.v', 'attn.proj', 'mlp.mlp1', 'mlp.mlp2')]
        assert keys == {f'{site}_{kind}' for site in sites for kind in ('conv', 'bn')}
