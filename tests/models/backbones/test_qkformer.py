"""QKFormer: equal to a plain loop over time and pairs of tokens, and to SpikingJelly's."""

import pytest
import torch
from formers import DOUBLE, Questions, Steps, pooled

from mmsnn.models import QKFormer


def site(steps, name, x, pool=False, **kwargs):
    """Convolution, norm, perhaps pooling, neuron."""
    x = steps.norm(name.format('bn'), steps.conv(name.format('conv'), x, **kwargs))
    return steps.lif(name.format('lif'), pooled(x) if pool else x)


def plain(steps, x, heads, imagenet=True):
    outs = []
    for i in range(1, 4):
        embed = f'patch_embed{i}.'
        if i == 1:
            x = site(steps, embed + 'proj_{}', x, pool=imagenet)
        stride = 2 if i > 1 or imagenet else 1
        shortcut = site(steps, embed + 'proj_res_{}', x, stride=stride)
        if i > 1:
            x = site(steps, embed + 'proj4_{}', site(steps, embed + 'proj3_{}', x, imagenet), not imagenet)
        else:
            x = site(steps, embed + 'proj1_{}', x, pool=imagenet)
            x = site(steps, embed + 'proj2_{}', x) if imagenet else x
        x = x + shortcut
        attn, mlp = f'stage{i}.0.{"attn" if i == 3 else "tssa"}', f'stage{i}.0.mlp'
        q, k = (site(steps, f'{attn}.{name}_{{}}', x) for name in 'qk')
        if i == 3:
            v = site(steps, f'{attn}.v_{{}}', x)
            out = steps.lif(f'{attn}.attn_lif', steps.maps(steps.attend(q, k, v, heads), x), 0.5)
        else:
            # one neuron a token and head
            gate = steps.lif(f'{attn}.attn_lif', steps.tokens(q, heads).sum(3, keepdim=True), 0.5)
            out = steps.maps(gate * steps.tokens(k, heads), x)
        x = x + site(steps, f'{attn}.proj_{{}}', out)
        x = x + site(steps, f'{mlp}.fc2_{{}}', site(steps, f'{mlp}.fc1_{{}}', x))
        outs.append(x)
    return outs


class TestQKFormer(Questions):
    cls = QKFormer
    arch = dict(embed_dims=32, num_layers=(1, 1, 1), num_heads=4)
    strides, widths = (4, 8, 16), (8, 16, 32)
    first = 'patch_embed1.proj_conv'

    def plain(self, steps, x):
        return plain(steps, x, heads=4)

    def test_cifar_form(self):
        model = self.make((20, 28), arch=dict(self.arch, stem='cifar')).eval().double()
        frames = torch.randn(3, 2, 3, 20, 28, dtype=DOUBLE)
        steps = Steps(model.state_dict())
        got = model(frames)
        assert [tuple(o.shape[2:]) for o in got] == [(20, 28), (10, 14), (5, 7)]
        for g, e in zip(got, steps.run(lambda x: plain(steps, x, 4, imagenet=False), frames)):
            assert e.std() > 0.05
            torch.testing.assert_close(g, e)
        with pytest.raises(ValueError, match="stem must be 'imagenet' or 'cifar', got 'tiny'"):
            QKFormer(dict(self.arch, stem='tiny'))

    def test_spiking_jelly(self):
        """The same weights, the same logits; biases that theirs lacks or has more are 0."""
        functional = pytest.importorskip('spikingjelly.activation_based.functional')
        from spikingjelly.activation_based.model import qkformer

        depths = (1, 2, 1)
        model = self.make(arch=dict(self.arch, num_layers=depths), out_indices=-1).eval().double()
        for name, parameter in model.named_parameters():
            if name.endswith('conv.bias'):
                torch.nn.init.zeros_(parameter)
        theirs = qkformer.QKFormer(
            T=2, embed_dims=32, num_heads=(4,) * 3, depths=depths, num_classes=5, tau=2.0, detach_reset=True
        )
        theirs = theirs.double().eval()
        for name, module in theirs.named_modules():
            # theirs gives all neurons the same settings
            if name.endswith('attn.attn_lif'):
                module.v_threshold = 0.5
        theirs.load_state_dict(as_spiking_jelly(model.state_dict(), theirs.state_dict()))
        x = torch.randn(3, 3, 64, 64, dtype=DOUBLE)
        with torch.no_grad():
            expected = theirs(x)
            functional.reset_net(theirs)
            got = theirs.head(model(x)[0].mean((2, 3)))
        assert expected.std() > 0.05
        torch.testing.assert_close(got, expected)

    def test_names_of_the_release(self):
        """ImageNet's."""
        keys = {k.rpartition('.')[0] for k in QKFormer(self.arch).state_dict()}
        sites = [f'patch_embed1.{s}' for s in ('proj', 'proj1', 'proj2', 'proj_res')]
        sites += [f'patch_embed{i}.{s}' for i in (2, 3) for s in ('proj3', 'proj4', 'proj_res')]
        for i, parts in ((1, ('tssa.q', 'tssa.k', 'tssa.proj')), (3, ('attn.q', 'attn.k', 'attn.v', 'attn.proj'))):
            for stage in (1, 2) if i == 1 else (3,):
                sites += [f'stage{stage}.0.{s}' for s in (*parts, 'mlp.fc1', 'mlp.fc2')]
        assert keys == {f'{site}_{kind}' for site in sites for kind in ('conv', 'bn')}


def as_spiking_jelly(state, theirs):
    """Our state under SpikingJelly's names: q, k and v in one convolution, and its own head."""
    out = {}
    for key, value in theirs.items():
        module, _, leaf = key.rpartition('.')
        if module == 'head':
            out[key] = value
            continue
        if 'attn.qk' in module:
            block, _, rest = module.partition('.attn.')
            names = 'qkv' if rest.startswith('qkv') else 'qk'
            kind = 'conv' if rest.endswith('0') else 'bn'
            attn = 'attn' if names == 'qkv' else 'tssa'
            parts = [state[f'{block}.{attn}.{n}_{kind}.{leaf}'] for n in names]
            value = parts[0] if leaf == 'num_batches_tracked' else torch.cat(parts)
        else:
            name = module
            if name.startswith('patch_embed'):
                embed, _, rest = name.partition('.')
                order = ['proj', 'proj1', 'proj2'] if embed == 'patch_embed1' else ['proj3', 'proj4']
                if rest.startswith('shortcut'):
                    rest = 'proj_res_conv' if rest.endswith('0') else 'proj_res_bn'
                else:
                    kind = 'conv' if rest.startswith('conv') else 'bn'
                    rest = f'{order[int(rest[-1]) - 1]}_{kind}'
                name = f'{embed}.{rest}'
            else:
                attn = 'attn' if name.startswith('stage3') else 'tssa'
                name = name.replace('attn.proj_conv_bn.0', f'{attn}.proj_conv')
                name = name.replace('attn.proj_conv_bn.1', f'{attn}.proj_bn')
                for i in '12':
                    name = name.replace(f'mlp.fc{i}', f'mlp.fc{i}_conv').replace(f'mlp.bn{i}', f'mlp.fc{i}_bn')
            value = state.get(f'{name}.{leaf}', torch.zeros_like(value))
            assert leaf == 'bias' or f'{name}.{leaf}' in state
        out[key] = value.reshape(theirs[key].shape)
    return out
