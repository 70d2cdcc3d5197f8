"""Detectors and segmentors that stay in spikes up to the last convolution."""

import copy

import pytest
import torch
from helpers import noise_batch
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.necks import FPN
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmseg.models.decode_heads import FPNHead
from plain_loop import PlainLoop
from tiny import CLASSES, MEAN, SPIKING, STD, detector
from torch import nn
from torch.nn import functional as F

from mmsnn import get_time_steps, set_time_steps
from mmsnn.analysis import count_energy
from mmsnn.analysis.energy import INTEGER, SPIKE
from mmsnn.distill import Distiller
from mmsnn.distill.losses import ChannelWiseKL, DenseResponse, PixelKL
from mmsnn.engine.hooks import check_time_folding
from mmsnn.layers import TimeFoldingError, fold, unfold
from mmsnn.models import JointNormRetinaHead, SpikeFPN, SpikeFPNHead, SpikeRetinaHead
from mmsnn.neurons import expand_levels

T, B = 4, 3
WIDTHS = [8, 16, 32, 64]
PYRAMID = dict(in_channels=WIDTHS, out_channels=16, num_outs=5, start_level=1, add_extra_convs='on_input')
TASKS = ('mmdet', 'mmseg')


def spiking(cfg, head, **settings):
    """A task model's config with all three parts spiking; ``settings`` of backbone, neck and head."""
    settings = {'T': T, **settings}
    cfg['backbone'] = {**SPIKING, 'readout': 'none', **settings}
    cfg['neck'].update(type='mmsnn.SpikeFPN', **settings)
    kind = dict(bbox_head='mmsnn.SpikeRetinaHead', decode_head='mmsnn.SpikeFPNHead')[head]
    cfg[head].update(type=kind, **settings)
    return cfg


def task(scope, snn=True, **settings):
    """Config of a small RetinaNet or Semantic FPN, spiking or its ANN twin."""
    norm = dict(type='BN')
    twin = dict(norm_cfg=norm, act_cfg=dict(type='ReLU'))
    if scope == 'mmdet':
        cfg = detector(snn)
        cfg['neck'].update(num_outs=5, **twin)
        cfg['bbox_head'].update(type='mmsnn.JointNormRetinaHead', norm_cfg=norm)
        cfg['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64, 128]
        return spiking(cfg, 'bbox_head', **settings) if snn else cfg
    cfg = dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True, size=(64, 64)),
        backbone=dict(type='mmseg.ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
        neck=dict(type='mmseg.FPN', in_channels=WIDTHS, out_channels=16, num_outs=4, **twin),
        decode_head=dict(
            type='mmseg.FPNHead',
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=8,
            num_classes=CLASSES,
            norm_cfg=norm,
        ),
        test_cfg=dict(mode='whole'),
    )
    return spiking(cfg, 'decode_head', **settings) if snn else cfg


def head_of(model):
    return model.bbox_head if hasattr(model, 'bbox_head') else model.decode_head


@pytest.fixture
def make(lively):
    """A task model whose neurons spike, and not always."""

    def build(scope, **settings):
        with DefaultScope.overwrite_default_scope(scope):
            return lively(MODELS.build(ConfigDict(task(scope, **settings))), torch.randn(B, 3, 64, 64))

    return build


def levels(sizes=((8, 12), (4, 6), (2, 3)), channels=16, dtype=torch.float64):
    """Random spikes of a pyramid, ``[T*B, C, H, W]``."""
    return [torch.bernoulli(torch.full((T * B, channels, *size), 0.3, dtype=dtype)) for size in sizes]


def inputs_of_convs(model, run):
    """What each convolution behind the stem was given, by name, a list of calls."""
    seen = {}

    def keep(name):
        return lambda _, args: seen.setdefault(name, []).append(args[0].detach())

    convs = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n != 'backbone.conv1'}
    handles = [m.register_forward_pre_hook(keep(n)) for n, m in convs.items()]
    run()
    for handle in handles:
        handle.remove()
    assert seen.keys() == convs.keys()
    return seen


class TestSpikes:
    @pytest.mark.parametrize('train', [False, True])
    @pytest.mark.parametrize('scope', TASKS)
    def test_every_convolution_is_given_integers(self, make, scope, train):
        model = make(scope).train(train)
        if scope == 'mmseg':
            model.decode_head.dropout.eval()
        seen = inputs_of_convs(model, lambda: model(torch.randn(B, 3, 64, 64)))
        assert sum(not name.startswith('backbone') for name in seen) == dict(mmdet=8 + 4, mmseg=8 + 7 + 1)[scope]
        for name, calls in seen.items():
            for x in calls:
                assert x.shape[0] == T * B, name
                assert torch.equal(x, x.round()) and x.min() >= 0 and x.max() <= 4, name
            assert any(x.any() for x in calls), name

    def test_pyramid(self, make):
        model = make('mmdet').eval()
        outs = model.extract_feat(torch.randn(B, 3, 64, 96))
        assert [tuple(o.shape[2:]) for o in outs] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
        assert all(set(o.unique().tolist()) == {0, 1} for o in outs)

    def test_pooled_levels(self):
        neck = SpikeFPN(WIDTHS, 16, num_outs=6, T=T)
        outs = neck(tuple(levels(channels=c, sizes=[(2 ** (5 - i),) * 2])[0].float() for i, c in enumerate(WIDTHS)))
        assert torch.equal(outs[4], outs[3][:, :, ::2, ::2]) and len(outs) == 6 and len(neck.fpn_convs) == 4

    def test_potentials_fire_first(self):
        """A neuron in front of the laterals that are used, and of what the extra levels are made from."""
        neck = SpikeFPN(T=T, fire_inputs=True, neuron=dict(type='PLIF'), **PYRAMID)
        assert len(neck.input_neurons) == 3
        potentials = [2 * torch.randn(T * B, c, s, s) for c, s in zip(WIDTHS, (16, 8, 4, 2))]
        seen = inputs_of_convs(neck, lambda: neck(tuple(potentials)))
        assert all(torch.equal(x, x.round()) and x.any() for calls in seen.values() for x in calls)
        sum(out.sum() for out in neck(tuple(potentials))).backward()
        assert all(p.grad is not None for p in neck.parameters())

    def test_read_out_for_any_head(self):
        necks = [SpikeFPN(T=T, readout=mode, **PYRAMID) for mode in ('none', 'mean')]
        necks[1].load_state_dict(necks[0].state_dict())
        x = tuple(levels(channels=c, sizes=[(2 ** (4 - i),) * 2])[0].float() for i, c in enumerate(WIDTHS))
        for steps, rate in zip(*(neck(x) for neck in necks)):
            assert rate.shape[0] == B
            torch.testing.assert_close(unfold(steps, T).mean(0), rate)


def repeat(x):
    """Nearest upsampling by 2."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Loop(PlainLoop):
    def site(self, x, name, stride=1, key=''):
        return self.spike(self.norm(self.conv(x, f'{name}.conv', stride), f'{name}.bn'), name + key)

    def pyramid(self, feats):
        """Levels of the stages; the convolutions that are left over make extra levels from the last stage on."""
        maps = [self.site(x, f'neck.lateral_convs.{i}') for i, x in enumerate(feats)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + repeat(maps[i])
        maps = [self.site(x, f'neck.fpn_convs.{i}') for i, x in enumerate(maps)]
        x = feats[-1]
        while self.has(f'neck.fpn_convs.{len(maps)}'):
            x = self.site(x, f'neck.fpn_convs.{len(maps)}', stride=2)
            maps.append(x)
        return maps

    def retina(self, maps, kind):
        outs = []
        for level, x in enumerate(maps):
            i = 0
            while self.has(f'bbox_head.{kind}_convs.{i}'):
                x = self.site(x, f'bbox_head.{kind}_convs.{i}', key=str(level))
                i += 1
            outs.append(self.conv(x, f'bbox_head.retina_{kind}'))
        return outs

    def segment(self, maps):
        total = self.site(maps[0], 'decode_head.scale_heads.0.0')
        for level, x in enumerate(maps[1:], start=1):
            for i in range(0, 2 * level, 2):
                x = repeat(self.site(x, f'decode_head.scale_heads.{level}.{i}'))
            total = total + x
        return self.conv(total, 'decode_head.conv_seg')


class TestParity:
    """Neck and head against a loop over time, from what the backbone hands out."""

    @pytest.fixture
    def outcome(self, make):
        def run(scope, step):
            model = make(scope).eval().double()
            x = torch.randn(B, 3, 64, 96, dtype=torch.float64)
            with torch.no_grad():
                loop, outs = Loop(model), []
                for feats in zip(*(unfold(f, T) for f in model.backbone(x))):
                    outs.append(step(loop, feats))
                return model(x), [torch.stack(steps).mean(0) for steps in zip(*outs)]

        return run

    def test_detector(self, outcome):
        def step(loop, feats):
            maps = loop.pyramid(feats[1:])
            return loop.retina(maps, 'cls') + loop.retina(maps, 'reg')

        (scores, deltas), expected = outcome('mmdet', step)
        assert len(expected) == 10 and min(e.std() for e in expected[:4]) > 0.02
        torch.testing.assert_close([*scores, *deltas], expected, rtol=1e-9, atol=1e-9)

    def test_segmentor(self, outcome):
        logits, (expected,) = outcome('mmseg', lambda loop, feats: [loop.segment(loop.pyramid(feats))])
        assert expected.std() > 0.1 and logits.shape == (B, CLASSES, 16, 24)
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


class TestTwins:
    HEAD = dict(num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=2)
    SEG = dict(
        feature_strides=[4, 8, 16, 32], in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=CLASSES
    )

    @pytest.mark.parametrize(
        'spiking, ann, settings',
        [
            (SpikeFPN, FPN, PYRAMID),
            (SpikeRetinaHead, RetinaHead, HEAD),
            (JointNormRetinaHead, RetinaHead, HEAD),
            (SpikeFPNHead, FPNHead, SEG),
        ],
    )
    def test_names_are_the_libraries(self, spiking, ann, settings):
        ours, theirs = spiking(**settings), ann(norm_cfg=dict(type='BN'), **settings)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict())

    @pytest.mark.parametrize('norm', [dict(type='BN'), dict(type='GN', num_groups=4)])
    def test_ann_head_is_mmdets_in_evaluation(self, norm, lively):
        ours = JointNormRetinaHead(norm_cfg=norm, **self.HEAD).double()
        theirs = RetinaHead(norm_cfg=norm, **self.HEAD).double()
        lively(ours, levels())
        theirs.load_state_dict(ours.state_dict())
        x = levels()
        for train in (False,) if norm['type'] == 'BN' else (False, True):
            expected = theirs.train(train)(x)
            torch.testing.assert_close(ours.train(train)(x), tuple(expected))
            torch.testing.assert_close(ours.forward_single(x[0]), (expected[0][0], expected[1][0]))

    @pytest.mark.parametrize('kind', [JointNormRetinaHead, SpikeRetinaHead])
    def test_norm_sees_all_levels_together(self, kind):
        head = kind(**{**self.HEAD, 'stacked_convs': 1}).double().train()
        layer, x = head.cls_convs[0], levels()
        layer.bn.momentum = 1.0
        outs = layer(x)
        maps = [F.conv2d(level, layer.conv.weight, padding=1) for level in x]
        values = torch.cat([m.transpose(0, 1).flatten(1) for m in maps], 1)
        torch.testing.assert_close(layer.bn.running_mean, values.mean(1))
        torch.testing.assert_close(layer.bn.running_var, values.var(1))
        mean, var = values.mean(1).view(-1, 1, 1), values.var(1, correction=0).view(-1, 1, 1)
        expected = [layer.activate((m - mean) / (var + 1e-5).sqrt()) for m in maps]
        torch.testing.assert_close(outs, expected)
        # training and evaluation agree, up to the correction of the variance
        with torch.no_grad():
            layer.bn.running_var.copy_(var.flatten())
        torch.testing.assert_close(layer.eval()(x), expected)


class TestTasks:
    @pytest.mark.parametrize('scope', TASKS)
    def test_trains_and_predicts(self, make, scope):
        model = make(scope)
        batch = noise_batch(model, B)
        data = model.data_preprocessor(batch, True)
        losses = model.train().loss(data['inputs'], data['data_samples'])
        model.parse_losses(losses)[0].backward()
        assert all(p.grad is not None and p.grad.any() for p in head_of(model).parameters())
        assert model.backbone.conv1.weight.grad.any()
        # an output convolution's stage 1 does not reach RetinaNet
        assert all(p.grad is not None for p in model.neck.parameters())
        with torch.no_grad():
            found = model.eval().predict(data['inputs'], data['data_samples'])
        assert len(found) == B
        if scope == 'mmdet':
            assert all(len(sample.pred_instances) for sample in found)
        else:
            assert all(sample.pred_sem_seg.data.shape == (1, 64, 64) for sample in found)

    @pytest.mark.parametrize('scope', TASKS)
    def test_time_steps(self, make, scope):
        model = set_time_steps(make(scope), 5)
        assert get_time_steps(model) == 5
        x = torch.randn(B, 3, 64, 64)
        assert model.extract_feat(x)[0].shape[0] == 5 * B
        outs = model.eval()(x)
        assert all(o.shape[0] == B for o in (outs[0] if scope == 'mmdet' else [outs]))
        check_time_folding(model)

    @pytest.mark.parametrize('scope', TASKS)
    def test_images_do_not_mix_and_nothing_is_kept(self, make, scope):
        model = make(scope).eval()
        x = torch.randn(B, 3, 64, 64)

        def answer(x):
            out = copy.deepcopy(model)(x)
            return out[0][0] if scope == 'mmdet' else out

        first = answer(x)
        assert torch.equal(answer(x), first)
        torch.testing.assert_close(answer(x.flip(0)), first.flip(0))
        torch.testing.assert_close(answer(x[:1]), first[:1])
        kept = {id(t) for t in [*model.parameters(), *model.buffers()]}
        for module in model.modules():
            assert not any(isinstance(v, torch.Tensor) and id(v) not in kept for v in vars(module).values())

    def test_integers_become_spikes(self, make):
        model = make('mmdet', neuron=dict(type='ILIF', levels=2)).eval().double()
        x = torch.randn(B, 3, 64, 64, dtype=torch.float64)
        with torch.no_grad():
            scores, _ = model(x)
            seen = inputs_of_convs(expand_levels(model), lambda: torch.testing.assert_close(model(x)[0], scores))
        assert set(seen['bbox_head.retina_cls'][0].unique().tolist()) == {0, 2}

    def test_dropped_channels_are_dropped_at_every_step(self):
        head = SpikeFPNHead(**TestTwins.SEG, dropout_ratio=0.5, T=T).train()
        seen = []
        head.conv_seg.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        head.cls_seg(torch.ones(T * B, 8, 2, 2))
        mask = unfold(seen[0], T)
        assert torch.equal(mask, mask[:1].expand_as(mask)) and set(mask.unique().tolist()) == {0, 2}
        assert not torch.equal(mask[0, 0], mask[0, 1])
        head.eval().cls_seg(torch.ones(T * B, 8, 2, 2))
        assert (seen[1] == 1).all()


class Parts(nn.Module):
    """Neck and head without a backbone."""

    def __init__(self, scope, **settings):
        super().__init__()
        seg = scope == 'mmseg'
        pyramid = dict(PYRAMID, num_outs=4, start_level=0, add_extra_convs=False) if seg else PYRAMID
        self.neck = SpikeFPN(T=T, **pyramid, **settings)
        kind, head = (SpikeFPNHead, dict(TestTwins.SEG, dropout_ratio=0)) if seg else (SpikeRetinaHead, TestTwins.HEAD)
        self.head = kind(T=T, **head, **settings)
        self.sizes = (16, 8, 4, 2)

    def forward(self, x):
        out = self.head(self.neck(tuple(F.max_pool2d(x[:, :c], 16 // s) for c, s in zip(WIDTHS, self.sizes))))
        return [out] if isinstance(out, torch.Tensor) else out[0][:3]


class TestFast:
    # of SEW: sums of spikes
    X = torch.randint(0, 4, (T * B, 64, 16, 16), generator=torch.Generator().manual_seed(0)).double()

    @pytest.mark.parametrize('scope, sites', [('mmdet', 8 + 4), ('mmseg', 8 + 7)])
    def test_fused_norms(self, scope, sites, check_fused, lively):
        check_fused(lambda neuron: lively(Parts(scope, neuron=neuron), self.X.float()), self.X, sites)

    @pytest.mark.parametrize('scope', TASKS)
    def test_packed_spikes(self, scope):
        results = []
        for packed in (True, False):
            torch.manual_seed(0)
            model, kept = Parts(scope, packed_spikes=packed).double(), []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, kept=kept: (kept.append(t.numel() * t.element_size()), t)[1], lambda t: t
            ):
                outs = model(self.X)
            sum(out.square().sum() for out in outs).backward()
            results.append((outs, [p.grad for p in model.parameters()], sum(kept)))
        (outs, grads, less), (expected, gradients, more) = results
        assert less < 0.8 * more
        torch.testing.assert_close(outs, expected)
        assert sum(g is not None for g in grads) > 20
        torch.testing.assert_close([g for g in grads if g is not None], [g for g in gradients if g is not None])


class TestDistilled:
    FEATURE = dict(type='FeatureMSE', student='neck', teacher='neck', connector=dict(type='ConvBN'))
    CHANNELS = dict(type='ChannelWiseKL', student='neck', teacher='neck')
    RESPONSE = dict(
        mmdet=dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]'),
        mmseg=dict(type='PixelKL', student='decode_head.conv_seg', teacher='decode_head.conv_seg'),
    )

    @pytest.mark.parametrize('scope', TASKS)
    def test_response_and_levels(self, scope, lively):
        """Each term from what the two models answer on their own; level 1 copies everything."""
        terms = dict(loss_f=self.FEATURE, loss_c=self.CHANNELS, loss_r=self.RESPONSE[scope])
        with DefaultScope.overwrite_default_scope(scope):
            model = Distiller(task(scope), teacher=task(scope, snn=False), losses=terms, transfer=True)
            model.init_weights()
            student, teacher = model.student.eval(), model.teacher.model
            state = teacher.state_dict()
            assert state.keys() == student.state_dict().keys()
            assert all(torch.equal(v, state[k]) for k, v in student.state_dict().items())
            data = model.data_preprocessor(noise_batch(student, B), True)
            images, samples = data['inputs'], data['data_samples']
            lively(student, images)
            losses = model.loss(images, samples)
            with torch.no_grad():
                rates = [unfold(out, T).mean(0) for out in student.extract_feat(images)]
                features = teacher.extract_feat(images)
                answers = [m(images) for m in (student, teacher)]
            if scope == 'mmdet':
                response, answers = DenseResponse(CLASSES), [a[0] for a in answers]
            else:
                response, answers = PixelKL(), [[a] for a in answers]
            assert all(rate.std() > 0.1 for rate in rates) and losses['loss_r'] > 0
            torch.testing.assert_close(losses['loss_r'], response(*answers, samples))
            torch.testing.assert_close(losses['loss_c'], ChannelWiseKL()(rates, features))
            pairs = zip(model.connectors.loss_f, rates, features, strict=True)
            expected = sum(F.mse_loss(connector(s), t) for connector, s, t in pairs)
            torch.testing.assert_close(losses['loss_f'], expected)
            model.parse_losses({**losses, **model.train().loss(images, samples)})[0].backward()
        assert student.backbone.conv1.weight.grad.any()

    @pytest.mark.parametrize('steps, short_T', [(4, 1), (2, 1)])
    @pytest.mark.parametrize('scope', TASKS)
    def test_self_distillation(self, scope, steps, short_T, lively):
        """The terms of TSSD are those of two networks of fewer and of all steps, of the same weights."""
        term = dict(
            type='TemporalSpatialSelf',
            response={k: v for k, v in self.RESPONSE[scope].items() if k == 'type'},
            student=[self.RESPONSE[scope]['student'], 'backbone.layer2'],
            connector=[None, dict(type='WeakHead', pool=False)],
            beta=0.0,
        )
        levels_too = dict(self.CHANNELS, teacher='neck')
        with DefaultScope.overwrite_default_scope(scope):
            model = Distiller(
                task(scope, T=steps), teacher=task(scope, snn=False), losses=dict(loss_a=term, loss_c=levels_too),
                short_T=short_T, task_weight=2.0,
            )  # fmt: skip
            student = model.eval().student
            data = model.data_preprocessor(noise_batch(student, B), True)
            images, samples = data['inputs'], data['data_samples']
            lively(student, images)
            losses = model.loss(images, samples)
            features, rates = model.teacher.model.extract_feat(images), student.extract_feat(images)
            torch.testing.assert_close(
                losses['loss_c'], ChannelWiseKL()([unfold(r, steps).mean(0) for r in rates], features)
            )
            answers, own = {}, {}
            for n in (short_T, steps):
                set_time_steps(student, n)
                out = student(images)
                answers[n] = out[0] if scope == 'mmdet' else [out]
                own[n] = student.loss(images, samples)
        response = DenseResponse(CLASSES) if scope == 'mmdet' else PixelKL()
        expected = response(answers[short_T], answers[steps], samples)
        assert expected > 1e-4
        torch.testing.assert_close(losses['loss_a'], expected)
        if scope == 'mmseg':
            ce = sum(loss['decode.loss_ce'] for loss in own.values())
            torch.testing.assert_close(losses['decode.loss_ce'], ce)


class TestEnergy:
    @pytest.mark.parametrize('scope', TASKS)
    def test_accumulates_at_every_step(self, make, scope):
        model = make(scope).eval()
        x = torch.randn(B, 3, 64, 64)
        found = {layer.name: layer for layer in count_energy(model, x).layers}
        seen = inputs_of_convs(model, lambda: model(x))
        convs = dict(model.named_modules())
        for name, calls in seen.items():
            conv, layer = convs[name], found[name]
            assert layer.rule in (SPIKE, INTEGER) and layer.macs == 0, name
            ones, geometry = torch.ones_like(conv.weight), (conv.stride, conv.padding)
            reached = [F.conv2d(c, ones, None, *geometry) for c in calls]
            assert layer.acs == pytest.approx(sum(r.double().sum().item() for r in reached) / B)
            dense = sum(r[:, 0].numel() for r in reached) * conv.weight.numel()
            assert layer.twin_macs == pytest.approx(dense / (T * B))


class TestErrors:
    def detached(self, scope, **settings):
        """A backbone that reads out in front of a spiking neck."""
        cfg = task(scope, **settings)
        cfg['backbone']['readout'] = 'mean'
        with DefaultScope.overwrite_default_scope(scope):
            return MODELS.build(ConfigDict(cfg))

    REMEDY = r"Set backbone.readout='none', and the same T in backbone, neck and head"

    @pytest.mark.parametrize('scope', TASKS)
    def test_readout_in_front_of_the_neck(self, scope):
        model = self.detached(scope)
        match = rf'neck \(T=4\) is given \(3, \d+, 16, 16\): time is not folded into it. {self.REMEDY}'
        with pytest.raises(TimeFoldingError, match=match):
            model(torch.randn(B, 3, 64, 64))
        with pytest.raises(TimeFoldingError, match='backbone.readout'):
            check_time_folding(model)

    @pytest.mark.parametrize('scope', TASKS)
    def test_as_many_images_as_steps(self, scope):
        model = self.detached(scope)
        data = model.data_preprocessor(noise_batch(model, T), True)
        part = 'bbox_head' if scope == 'mmdet' else 'decode_head'
        for run in (model.loss, model.eval().predict):
            match = rf'{part} \(T=4\) has outputs for 1 images instead of 4. {self.REMEDY}'
            with pytest.raises(TimeFoldingError, match=match):
                run(data['inputs'], data['data_samples'])

    @pytest.mark.parametrize('head', [SpikeRetinaHead(**TestTwins.HEAD), SpikeFPNHead(**TestTwins.SEG)])
    def test_readout_in_front_of_the_head(self, head):
        with pytest.raises(TimeFoldingError, match='head .*backbone.readout'):
            head([fold(torch.zeros(1, 3, 16, 2**i, 2**i)) for i in (3, 2, 1, 0)])

    def test_different_time_steps(self, make):
        model = make('mmdet')
        set_time_steps(model.neck, 2)
        with pytest.raises(ValueError, match=r'modules of RetinaNet have different T: \[2, 4\]'):
            check_time_folding(model)

    @pytest.mark.parametrize(
        'build, error, match',
        [
            (lambda: SpikeFPN(T=0, **PYRAMID), ValueError, 'neck.T must be at least 1'),
            (lambda: SpikeRetinaHead(T=1.5, **TestTwins.HEAD), TypeError, 'bbox_head.T must be an int'),
            (lambda: SpikeFPNHead(T=-1, **TestTwins.SEG), ValueError, 'decode_head.T must be at least 1'),
            (lambda: SpikeFPN(readout='last', **PYRAMID), ValueError, 'readout must be one of mean, none'),
            (
                lambda: SpikeFPN(upsample_cfg=dict(mode='bilinear'), **PYRAMID),
                ValueError,
                r"neck.upsample_cfg=.*bilinear.* makes fractions of spikes: set neck.upsample_cfg.mode='nearest'",
            ),
        ],
    )
    def test_settings(self, build, error, match):
        with pytest.raises(error, match=match):
            build()
