"""Spikformer: equal to a plain loop over time and pairs of tokens."""

import torch
from formers import DOUBLE, Questions, Steps, pooled

from mmsnn.models import Spikformer
from mmsnn.models.backbones.spikformer import CIFAR


def site(steps, name, x):
    """Convolution, norm, neuron."""
    x = steps.norm(name.format('bn'), steps.conv(name.format('conv'), x))
    return steps.lif(name.format('lif'), x)


def plain(steps, x, pool, heads):
    for i, name in enumerate(('proj_{}', 'proj_{}1', 'proj_{}2', 'proj_{}3')):
        x = site(steps, f'patch_embed.{name}', x)
        x = pooled(x) if pool[i] else x
    x = x + site(steps, 'patch_embed.rpe_{}', x)
    outs = []
    for i in range(2):
        attn, mlp = f'block.{i}.attn', f'block.{i}.mlp'
        q, k, v = (site(steps, f'{attn}.{name}_{{}}', x) for name in 'qkv')
        out = steps.maps(steps.attend(q, k, v, heads), x)
        x = x + site(steps, f'{attn}.proj_{{}}', steps.lif(f'{attn}.attn_lif', out, 0.5))
        x = x + site(steps, f'{mlp}.fc2_{{}}', site(steps, f'{mlp}.fc1_{{}}', x))
        outs.append(x)
    return outs


class TestSpikformer(Questions):
    cls = Spikformer
    arch = dict(embed_dims=32, num_layers=2, num_heads=4)
    strides, widths = (16, 16), (32, 32)
    first = 'patch_embed.proj_conv'

    def plain(self, steps, x):
        return plain(steps, x, (True,) * 4, heads=4)

    def test_cifar_form(self):
        """Poolings behind the last two convolutions alone, biases of q, k and v."""
        arch = dict(self.arch, pool=CIFAR, qkv_bias=True)
        model = self.make((24, 24), arch=arch).eval().double()
        assert model.block[0].attn.q_conv.bias is not None
        steps, frames = Steps(model.state_dict()), torch.randn(3, 2, 3, 24, 24, dtype=DOUBLE)
        expected = steps.run(lambda x: plain(steps, x, (False, False, True, True), heads=4), frames)
        for got, e in zip(model(frames), expected):
            assert got.shape[-2:] == (6, 6) and e.std() > 0.05
            torch.testing.assert_close(got, e)

    def test_maps_hold_integers(self):
        model = self.make(readout='none').eval()
        for i, out in enumerate(model(torch.randn(3, 3, 64, 64))):
            # two spikes of the embedding, two of each block
            assert torch.equal(out, out.round()) and out.min() >= 0 and 2 < out.max() <= 2 + 2 * (i + 1)

    def test_names_of_the_release(self):
        """ImageNet's, but for the LayerNorms that nothing calls."""
        keys = {k.rpartition('.')[0] for k in Spikformer(self.arch).state_dict()}
        sites = [f'proj_{{}}{i}' for i in ('', 1, 2, 3)] + ['rpe_{}']
        expected = {f'patch_embed.{s.format(kind)}' for s in sites for kind in ('conv', 'bn')}
        for i in range(2):
            for s in ('attn.q', 'attn.k', 'attn.v', 'attn.proj', 'mlp.fc1', 'mlp.fc2'):
                expected |= {f'block.{i}.{s}_conv', f'block.{i}.{s}_bn'}
        assert keys == expected

    def test_tebn_tells_steps_apart(self):
        model = Spikformer(self.arch, T=2, norm_cfg=dict(type='mmsnn.TEBN', T=2))
        seen = []
        model.patch_embed.proj_conv.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        assert model(torch.randn(3, 3, 32, 32))[0].shape == (3, 32, 2, 2) and seen == [6]
