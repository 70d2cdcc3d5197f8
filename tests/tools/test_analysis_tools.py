"""get_flops and params: counts by hand, known networks, every task, and what both do with time and distillation."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import nn
from torchvision.models import get_model_weights, resnet50

from mmsnn import get_time_steps
from mmsnn.analysis import count_energy, count_macs, count_parameters
from mmsnn.building import build_model, image_size
from mmsnn.layers import DirectEncoder, Readout
from mmsnn.models import QKFormer, SEWResNet, SpikingVGG
from mmsnn.neurons import IF

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'


def tool(name, *args):
    return runpy.run_path(str(ROOT / f'tools/analysis_tools/{name}.py'))['main']([str(a) for a in args])


def by_name(report):
    return {m.name: m.total for m in report.modules}


class TestByHand:
    @pytest.mark.parametrize(
        'layer, macs',
        [
            # outputs x inputs a output
            (nn.Conv2d(3, 8, 3, padding=1), 8 * 6 * 10 * 3 * 9),
            (nn.Conv2d(3, 8, 3, stride=2, bias=False), 8 * 2 * 4 * 3 * 9),
            (nn.Conv2d(6, 8, (1, 3), padding=(0, 1), dilation=(1, 1), groups=2), 8 * 6 * 10 * 3 * 3),
            (nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4), 4 * 6 * 10 * 25),
            # inputs x outputs an input
            (nn.ConvTranspose2d(3, 8, 2, stride=2), 3 * 6 * 10 * 8 * 4),
        ],
        ids=str,
    )
    def test_convolutions(self, layer, macs):
        if isinstance(layer, nn.ConvTranspose2d):
            layer = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), layer)
            macs += 6 * 10 * 9
        assert count_macs(nn.Sequential(layer), (6, 10)).model.total == macs

    def test_linear_and_modules(self):
        model = nn.Sequential()
        model.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        model.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 3 * 5, 7))
        report = count_macs(model, (6, 10))
        conv, linear = 6 * 10 * 4 * 3, 60 * 7
        assert by_name(report) == {
            '': conv + linear, 'body': conv, 'body.0': conv, 'head': linear, 'head.1': linear,
        }  # fmt: skip
        assert not report.spiking and report.model.T == 1 and report.shape == (1, 3, 6, 10)
        assert report['body'].twin == report['body'].once == conv and report['body'].per_step == 0

    @pytest.mark.parametrize('device', ['cpu', 'meta'])
    def test_attention(self, device):
        """Products of activations, written out or fused."""

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Conv2d(3, 8, 1, bias=False)

            def forward(self, x):
                x = self.embed(x).flatten(2).transpose(1, 2)
                fused = nn.functional.scaled_dot_product_attention(x, x, x)
                return fused + (x @ x.transpose(1, 2)) @ x

        report = count_macs(Attention().to(device), (2, 5))
        assert by_name(report) == {'': 10 * 24 + 2 * 2 * 10 * 10 * 8, 'embed': 10 * 24}

    def test_shared_module_adds_up(self):
        conv = nn.Conv2d(3, 3, 1)
        assert by_name(count_macs(nn.Sequential(conv, conv), (4, 4))) == {'': 2 * 144, '0': 2 * 144}

    def test_forward_called_directly(self):
        """mmdet and mmseg do so with heads, whose hooks then stay silent."""

        class Task(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Sequential(nn.Conv2d(3, 2, 1))

            def forward(self, x):
                return self.head.forward(x)

        assert by_name(count_macs(Task(), (4, 4)))['head'] == 16 * 6


class Small(nn.Module):
    """A stem on the image, one layer in time, a readout, an analog head."""

    def __init__(self, T):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.encoder = DirectEncoder(T)
        self.neuron = IF(T)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.readout = Readout(T)
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        x = self.conv(self.neuron(self.encoder.repeat(self.stem(x))))
        return self.head(self.readout(x).mean((2, 3)))


class TestTime:
    @pytest.mark.parametrize('T', [1, 2, 5])
    def test_by_hand(self, T):
        model = Small(T).train()
        model.head.eval()
        report = count_macs(model, (4, 6))
        found = {m.name: (m.once, m.per_step) for m in report.modules}
        stem, conv, head = 24 * 2, 24 * 3 * 2 * 9, 15
        assert found == {'': (stem + head, conv), 'stem': (stem, 0), 'conv': (0, conv), 'head': (head, 0)}
        assert report.model.twin == stem + conv + head
        assert report.model.total == stem + T * conv + head
        # as it was
        assert get_time_steps(model) == T
        assert model.training and model.neuron.training and not model.head.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_restored_after_an_error(self):
        model = Small(3)
        with pytest.raises(RuntimeError):
            count_macs(model, (0, 6))
        assert get_time_steps(model) == 3
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_mmengine_and_energy_agree(self):
        """Two other ways of counting, on computed values."""
        model = SEWResNet(18, T=3, base_channels=8).eval()
        report = count_macs(model, (64, 96))
        image = torch.rand(1, 3, 64, 96)
        traced = FlopAnalyzer(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        assert traced.by_operator()['conv'] == report.model.total
        assert traced.by_operator('layer2')['conv'] == report['layer2'].total
        assert count_energy(model, image).total('twin_macs') == report.model.twin

    def test_event_frames_enter_every_step(self):
        """And the first registered convolution is not the one that sees the input."""
        cfg = Config.fromfile(CONFIGS / 'spiking/spiking_vgg9_cifar10_dvs.py')
        report = count_macs(build_model(cfg).to('meta'), image_size(cfg))
        assert report.shape == (1, 5, 2, 48, 48)
        assert report['backbone'].once == 0
        assert report['backbone.features.0'].per_step == 48 * 48 * 64 * 2 * 9
        former = QKFormer(arch=dict(embed_dims=32, num_layers=(1, 1, 1), num_heads=2), T=2).to('meta')
        assert count_macs(former, (32, 32)).shape == (1, 3, 32, 32)

    def test_packed_spikes_count_the_same(self):
        found = [by_name(count_macs(SpikingVGG(9, T=2, base_channels=8, packed_spikes=p), (32, 32))) for p in (0, 1)]
        assert found[0] == found[1]

    def test_deformable_convolutions(self):
        """They count as ordinary ones, beside the convolution of their offsets; energy names them as uncounted."""
        dcn = dict(dcn=dict(type='DCNv2'), stage_with_dcn=(False, False, False, True))
        plain, deformable = (SEWResNet(50, T=2, base_channels=8, **more) for more in ({}, dcn))
        without, found = (count_macs(model, (64, 64)) for model in (plain, deformable))
        offsets = [m for m in found.modules if m.name.endswith('conv_offset')]
        # 27 maps of offsets and masks for the 64 that are convolved
        assert [m.per_step for m in offsets] == [64 * 27 * 9 * side**2 for side in (2, 2, 2)]
        assert found.model.twin == without.model.twin + sum(m.twin for m in offsets)
        energy = count_energy(deformable, torch.randn(3, 3, 64, 64))
        assert energy.uncounted_macs == 2 * 3 * 64 * 64 * 9 * 2**2


# published by torchvision beside its weights, and by mmpretrain, which counts norms and pooling, too
MMPRETRAIN_GMACS = {18: 1.82, 34: 3.68, 50: 4.12}
MILLIONS = {18: 11.69, 34: 21.80, 50: 25.56}


class TestKnownNetworks:
    @pytest.mark.parametrize('depth', [18, 34, 50])
    def test_resnet(self, depth, capsys):
        known = get_model_weights(f'resnet{depth}').DEFAULT.meta
        for config in (f'ann/r{depth}_imagenet.py', f'spiking/sew{depth}_imagenet.py'):
            macs, params = (tool(name, CONFIGS / config) for name in ('get_flops', 'params'))
            assert params.model.total == params.model.trainable == known['num_params']
            assert round(params.model.total / 1e6, 2) == MILLIONS[depth]
            assert round(macs.model.twin / 1e9, 3) == known['_ops']
            assert macs.model.twin / 1e9 == pytest.approx(MMPRETRAIN_GMACS[depth], rel=0.01)
            assert macs.shape == (1, 3, 224, 224)
        # the SNN: the stem and the head once, the rest four times
        stem, head = 112 * 112 * 64 * 3 * 49, macs['head'].twin
        assert macs.model.T == 4 and macs.model.once == stem + head
        assert macs.model.total == macs.model.twin + 3 * (macs.model.twin - stem - head)
        text = capsys.readouterr().out
        assert 'ANN twin (G)' in text and f'{macs.model.total / 1e9:.3f}' in text and f'{known["num_params"]:,}' in text

    def test_vit(self, capsys):
        known = get_model_weights('vit_b_16').DEFAULT.meta
        assert round(tool('get_flops', CONFIGS / 'ann/vit_b_imagenet.py').model.total / 1e9, 3) == known['_ops']
        assert tool('params', CONFIGS / 'ann/vit_b_imagenet.py').model.total == known['num_params']

    def test_faster_rcnn(self, capsys):
        """A thousand boxes through two layers and two outputs, at the size that 800x1333 is padded to."""
        report = tool('get_flops', CONFIGS / 'spiking/faster_rcnn_sew34_coco.py')
        assert report.shape == (1, 3, 800, 1344)
        assert report['roi_head'].once == 1000 * 1024 * (256 * 49 + 1024 + 81 + 320)
        pixels = sum(-(-800 // s) * -(-1344 // s) for s in (4, 8, 16, 32, 64))
        assert report['rpn_head'].once == pixels * (256 * 256 * 9 + 256 * (3 + 12))
        assert '1000 boxes' in capsys.readouterr().out


class TestConfigs:
    @pytest.mark.parametrize(
        'config, shape, parts',
        [
            ('ann/r18_cifar10.py', (1, 3, 32, 32), {'backbone', 'head'}),
            ('ann/retinanet_r18_bccd.py', (1, 3, 192, 256), {'backbone', 'neck', 'bbox_head'}),
            ('spiking/retinanet_sew18_gen1.py', (1, 5, 2, 256, 320), {'backbone', 'neck', 'bbox_head'}),
            ('spiking/fcn_sew18_camvid.py', (1, 3, 180, 240), {'backbone', 'decode_head'}),
            ('spiking/spiking_r18_tiny_imagenet.py', (1, 3, 64, 64), {'backbone', 'head'}),
            ('sakd/sem_fpn_sew34_ade20k.py', (1, 3, 512, 512), {'backbone', 'neck', 'decode_head'}),
            ('tssd/spiking_vgg9_dvs128_gesture.py', (1, 16, 2, 48, 48), {'backbone', 'head'}),
        ],
    )
    def test_every_task(self, config, shape, parts, capsys):
        report = tool('get_flops', CONFIGS / config)
        top = {name: total for name, total in by_name(report).items() if name and '.' not in name}
        assert report.shape == shape and set(top) == parts
        assert sum(top.values()) == report.model.total
        assert report.spiking == (not config.startswith('ann'))

    def test_options(self, tmp_path, capsys):
        config = CONFIGS / 'spiking/spiking_r18_cifar10_small.py'
        options = ('--cfg-options', 'model.backbone.base_channels=8', 'model.head.in_channels=64')
        short = tool('get_flops', config, *options)
        out = tmp_path / 'macs.json'
        shape = ('--shape', 64, 32, '--T', 2, '--depth', 2, '--out', out)
        large = tool('get_flops', config, *shape, *options)
        text = capsys.readouterr().out
        assert large['backbone.layer1'].twin == 2 * short['backbone.layer1'].twin
        assert large.model.T == 2 and 'T=2' in text and 'backbone.layer1' in text and 'layer1.0' not in text
        written = json.loads(out.read_text())
        assert written['total'] == large.model.total and written['T'] == 2
        assert written['modules']['backbone.layer1.0.conv1']['per_step'] == 32 * 16 * 16 * 8 * 9

    def test_what_meta_tensors_cannot_do(self, capsys):
        """Poisson encoding draws numbers; then the stem runs at every step, too."""
        config = CONFIGS / 'spiking/spiking_r18_cifar10_small.py'
        report = tool('get_flops', config, '--cfg-options', 'model.backbone.encoder.type=PoissonEncoder')
        assert report['backbone.conv1'].per_step == 32 * 32 * 16 * 3 * 9
        assert report['backbone'].once == 0

    def test_size_of_images(self):
        def config(pipeline=(), kind='ImageNet', **preprocessor):
            wrapped = dict(type='RepeatDataset', dataset=dict(type=kind, pipeline=list(pipeline)))
            return Config(
                dict(model=dict(type='X'), data_preprocessor=preprocessor, test_dataloader=dict(dataset=wrapped))
            )

        resize = dict(type='mmcv.Resize', scale=(1333, 800))
        assert image_size(config([resize, dict(type='CenterCrop', crop_size=224)])) == (224, 224)
        assert image_size(config([resize], pad_size_divisor=32)) == (800, 1344)
        assert image_size(config([resize], size=(512, 256))) == (512, 256)
        assert image_size(config(kind='mmsnn.Gen1')) == (240, 304)
        assert image_size(config([dict(type='EventResize', size=(60, 76))], kind='mmsnn.Gen1')) == (60, 76)
        for cfg in (config(), Config(dict(model=dict(type='X')))):
            with pytest.raises(ValueError, match='--shape H W'):
                image_size(cfg)

    def test_detection_transformer(self):
        """Whose forward wants to know what is padding."""
        report = tool('get_flops', 'mmdet::detr/detr_r50_8xb2-150e_coco.py', '--shape', 64, 96)
        parts = by_name(report)
        assert parts['backbone'] > 0 and parts['encoder'] > 0 and parts['decoder'] > 0


class TestParameters:
    def test_by_hand(self):
        model = nn.Sequential()
        model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        model.pool = nn.MaxPool2d(2)
        model.neck = nn.Linear(4, 2, bias=False)
        model.head = nn.Linear(4, 2)
        model.head.weight = model.neck.weight
        model.backbone[0].requires_grad_(False)
        report = count_parameters(model)
        assert {m.name: (m.total, m.trainable, m.frozen) for m in report.modules} == {
            # the shared weight is counted once in the whole
            '': (112 + 8 + 8 + 2, 18, 112),
            'backbone': (120, 8, 112),
            'backbone.0': (112, 0, 112),
            'backbone.1': (8, 8, 0),
            'neck': (8, 8, 0),
            'head': (10, 10, 0),
        }
        assert report.training_only == []

    def test_distiller(self, tmp_path, capsys):
        """The student alone is the model; connectors and teacher stand apart."""
        student, teacher = (CONFIGS / f'{name}_cifar10_small.py' for name in ('spiking/spiking_r18', 'ann/r18'))
        out = tmp_path / 'params.json'
        options = ('--out', out, '--depth', 1, '--cfg-options', f'model.teacher={teacher}')
        report = tool('params', CONFIGS / 'sakd/spiking_r18_cifar10_small.py', *options)
        text = capsys.readouterr().out
        assert report.modules == tool('params', student).modules
        whole = tool('params', teacher).model.total
        assert (report['teacher'].total, report['teacher'].trainable) == (whole, 0)
        cfg = Config.fromfile(student).model.backbone
        base = cfg.get('base_channels', 64)
        widths = [base * 2**i for i in range(4)]
        # 3x3 convolutions without bias, and batch norms
        assert report['connectors.loss_feature'].trainable == sum(9 * w * w + 2 * w for w in widths)
        assert 'teacher (training only)' in text and 'student' in text and 'layer1' not in text
        written = json.loads(out.read_text())
        assert set(written['training_only']) == {'connectors.loss_feature', 'teacher'}
        assert written['total'] == report.model.total and 'backbone.layer1' in written['modules']

    @pytest.mark.parametrize(
        'config, millions',
        [
            # from the papers, or known by their code
            ('spiking/spiking_r19_cifar10.py', 12.63),
            ('spiking/ms_resnet104_imagenet.py', None),
            ('spiking/spikformer_8-768_imagenet.py', 66.34),
            ('spiking/spikformer_4-384_cifar100.py', None),
            ('spiking/spikingformer_8-512_imagenet.py', 29.68),
            ('spiking/qkformer_10-384_imagenet.py', 16.47),
            ('spiking/meta_spikeformer_15m_imagenet.py', 15.1),
            ('spiking/spiking_vgg9_dvs128_gesture.py', None),
            ('spiking/retinanet_sew18_gen1.py', None),
            ('spiking/fcn_sew18_camvid.py', None),
            ('ann/retinanet_r50_coco.py', None),
            ('ann/deeplabv3plus_r50_ade20k.py', None),
        ],
    )
    def test_sweep(self, config, millions):
        model = build_model(Config.fromfile(CONFIGS / config)).to('meta')
        report = count_parameters(model)
        with torch.device('meta'):
            ann = resnet50()
        assert report.model.total == sum(p.numel() for p in model.parameters())
        assert sum(m.total for m in report.modules if m.name and '.' not in m.name) == report.model.total
        if millions:
            assert report.model.total / 1e6 == pytest.approx(millions, rel=0.005)
        # mmdet freezes the stem and the first stage of its ResNet-50
        stages = [ann.conv1, ann.bn1, ann.layer1]
        frozen = sum(p.numel() for stage in stages for p in stage.parameters())
        assert report.model.frozen == (frozen if config == 'ann/retinanet_r50_coco.py' else 0)


class TestEnergy:
    @pytest.mark.parametrize(
        'config, T',
        [
            ('spiking/spiking_r18_cifar10_small.py', 4),
            ('sakd/retinanet_sew18_bccd.py', 4),
            ('spiking/spiking_vgg9_dvs128_gesture.py', 8),
            ('spiking/retinanet_sew18_gen1.py', 5),
        ],
    )
    def test_noise_of_every_kind(self, config, T, tmp_path):
        """Images or event frames; the same multiply-accumulates of the ANN twin as get_flops.py counts."""
        shape = ('--shape', 64, 96)
        report = tool('energy', CONFIGS / config, *shape, '--out', tmp_path / 'report.json')
        assert report.T == T == json.loads((tmp_path / 'report.json').read_text())['T']
        assert report.total('twin_macs') == tool('get_flops', CONFIGS / config, *shape).model.twin

    def test_size_is_the_configs(self):
        config = CONFIGS / 'spiking/spiking_r18_cifar10_small.py'
        report = tool('energy', config, '--T', 2)
        assert report.T == 2 and report.total('twin_macs') == tool('get_flops', config).model.twin

    def test_untrained_network_says_so(self, tmp_path, capsys):
        """Beside the figures: random weights, noise, norms that have seen nothing, and the neurons that are silent."""
        config = CONFIGS / 'spiking/spiking_r18_cifar10_small.py'
        report = tool('energy', config, '--cfg-options', 'model.backbone.neuron.v_threshold=50.0')
        said = ' '.join(capsys.readouterr().out.split())
        assert 'weights are random, because no checkpoint' in said and 'input is noise' in said
        assert len(report.firing_rates.silent) == len(report.firing_rates) == 17
        assert '17 of 17 neuron layers are silent' in said and '21 batch norms are in eval mode' in said
        checkpoint = tmp_path / 'weights.pth'
        torch.save(dict(state_dict=build_model(Config.fromfile(config)).state_dict()), checkpoint)
        assert 'random' not in tool('energy', config, checkpoint).remark

    def test_images_are_no_events(self, tmp_path):
        with pytest.raises(ValueError, match='--images.*event frames'):
            tool('energy', CONFIGS / 'spiking/spiking_vgg9_dvs128_gesture.py', '--images', tmp_path / 'x.png')
