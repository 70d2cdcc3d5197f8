import copy
import io
import json
import math

import numpy as np
import pytest
import tiny
import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import mmsnn.neurons.base
from mmsnn.analysis.saliency import compare, cosine, grad_cam, iou, spearman, top_pixels
from mmsnn.models import SEWResNet
from mmsnn.neurons import Neuron


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


class TestFigures:
    def test_cosine(self):
        # 3*4 + 4*3 over 5*5
        assert cosine(tensor([3, 4]), tensor([4, 3])) == pytest.approx(24 / 25)
        assert cosine(tensor([0, 2]), tensor([7, 0])) == 0
        # squares that float32 would lose
        assert cosine(tensor([3e-30, 4e-30]), tensor([4e-30, 3e-30])) == pytest.approx(24 / 25)

    def test_spearman_with_ties(self):
        # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
        found = spearman(tensor([0.1, 5, 5, 90]), tensor([1, 2, 3, 4]))
        assert found == pytest.approx(4.5 / math.sqrt(4.5 * 5))
        # any monotone change leaves the ranks
        assert spearman(tensor([1, 2], [3, 9]), tensor([1, 2], [3, 9]).exp()) == pytest.approx(1)
        assert spearman(tensor([1, 2, 3]), tensor([3, 2, 1])) == pytest.approx(-1)

    def test_top_pixels(self):
        saliency = torch.arange(10.0).view(2, 5)
        assert top_pixels(saliency, 20).nonzero().tolist() == [[1, 3], [1, 4]]
        # at least one
        assert top_pixels(saliency, 1).sum() == 1
        # what is tied with the last one counts too, the bottom never does
        assert top_pixels(tensor([0, 1, 1, 1, 2]), 40).tolist() == [[False, True, True, True, True]]
        assert top_pixels(tensor([0, 0, 0, 0, 2]), 40).tolist() == [[False] * 4 + [True]]

    def test_iou(self):
        a, b = tensor([1, 1, 0, 0]).bool(), tensor([0, 1, 1, 0]).bool()
        assert iou(a, b) == pytest.approx(1 / 3)
        assert iou(a, a) == 1
        assert iou(a, ~a) == 0

    @pytest.mark.parametrize('flat', [torch.zeros(2, 2), torch.full((2, 2), math.nan)])
    def test_flat_maps_have_no_figures(self, flat):
        other = torch.rand(2, 2)
        for a, b in ((flat, other), (other, flat), (flat, flat)):
            assert math.isnan(cosine(a, b)) and math.isnan(spearman(a, b))
            assert math.isnan(iou(top_pixels(a, 50), top_pixels(b, 50)))


class Linear(nn.Module):
    """Logits are linear in the image, which is its own feature map."""

    def __init__(self, classes=4, size=6):
        super().__init__()
        self.backbone = nn.Identity()
        self.head = nn.Linear(3 * size * size, classes)

    def forward(self, x, mode='tensor'):
        return self.head(self.backbone(x).flatten(1))

    def weight(self, label):
        return self.head.weight[label].view(3, 6, 6).detach()


class Preprocessor:
    """Only what tells the normalisation."""

    _enable_normalize = True

    def __init__(self, mean, std, to_rgb=False):
        self.mean, self.std, self.to_rgb = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1), to_rgb

    def __call__(self, data, training):
        return dict(inputs=(torch.stack(data['inputs']) - self.mean) / self.std, data_samples=data['data_samples'])


class TestLinearNetwork:
    @pytest.mark.parametrize('label', [None, 2])
    def test_maps_are_weight_times_input(self, label):
        teacher, student, images = Linear(), Linear(), torch.randn(3, 3, 6, 6)
        report = compare(teacher, student, images, label=label)
        assert [image.name for image in report.images] == ['0', '1', '2']
        for x, image in zip(images, report.images):
            # the student explains the teacher's class
            y = int(teacher(x[None]).argmax()) if label is None else label
            assert (image.label, image.explained) == (y, f'class {y}')
            for role, model in dict(teacher=teacher, student=student).items():
                w = model.weight(y)
                torch.testing.assert_close(image.maps['gradient'][role], (w * x).abs().sum(0))
                cam = (w.mean((1, 2), keepdim=True) * x).sum(0).clamp(min=0)
                torch.testing.assert_close(image.maps['grad_cam'][role], cam)
                assert image.probability[role] == pytest.approx(model(x[None])[0].softmax(0)[y].item())

    def test_a_network_agrees_with_itself(self):
        model = Linear()
        report = compare(model, copy.deepcopy(model), torch.randn(2, 3, 6, 6))
        figures = report.mean('gradient')
        assert (figures.cosine, figures.spearman, figures.iou) == pytest.approx((1, 1, 1))
        assert figures.student_drop == figures.teacher_drop

    @pytest.mark.parametrize('top', [10, 50])
    def test_drop_is_what_erasing_the_others_top_pixels_costs(self, top):
        teacher, student, x = Linear(), Linear(), torch.randn(1, 3, 6, 6)
        (image,) = compare(teacher, student, x, top=top).images
        y = image.label

        def drop(model, other):
            saliency = (other.weight(y) * x[0]).abs().sum(0).flatten()
            # 36 pixels
            keep = torch.ones(36)
            keep[saliency.argsort(descending=True)[: round(0.36 * top)]] = 0
            p = [model(image)[0].softmax(0)[y].item() for image in (x, x * keep.view(6, 6))]
            return p[0] - p[1]

        assert image.figures['gradient'].student_drop == pytest.approx(drop(student, teacher), abs=1e-6)
        assert image.figures['gradient'].teacher_drop == pytest.approx(drop(teacher, student), abs=1e-6)
        assert drop(student, teacher) != drop(teacher, student)

    def test_teacher_sees_the_image_in_its_own_normalisation(self):
        teacher, student = Linear(), Linear()
        teacher.data_preprocessor = Preprocessor([10.0, 20, 30], [2.0, 3, 4], to_rgb=True)
        student.data_preprocessor = Preprocessor([1.0, 2, 3], [5.0, 6, 7])
        raw = torch.rand(3, 6, 6) * 50
        (image,) = compare(teacher, student, dict(inputs=[raw], data_samples=None), label=1).images
        seen = dict(teacher=(raw.flip(0) - teacher.data_preprocessor.mean) / teacher.data_preprocessor.std)
        seen['student'] = (raw - student.data_preprocessor.mean) / student.data_preprocessor.std
        for role, model in dict(teacher=teacher, student=student).items():
            torch.testing.assert_close(image.maps['gradient'][role], (model.weight(1) * seen[role]).abs().sum(0))

    def test_padding_is_left_out(self):
        teacher, student = Linear(), Linear()
        student.data_preprocessor = Preprocessor([0.0] * 3, [1.0] * 3)
        sample = BaseDataElement(metainfo=dict(img_shape=(4, 5)))
        raw = F.pad(torch.randn(3, 4, 5), (0, 1, 0, 2))
        (image,) = compare(teacher, student, dict(inputs=[raw], data_samples=[sample])).images
        expected = (student.weight(image.label) * raw).abs().sum(0)[:4, :5]
        torch.testing.assert_close(image.maps['gradient']['student'], expected)
        assert image.maps['grad_cam']['teacher'].shape == (4, 5)

    def test_batches_of_any_kind(self):
        teacher, student, images = Linear(), Linear(), torch.randn(3, 3, 6, 6)
        whole = compare(teacher, student, images, names='abc')
        parts = compare(teacher, student, iter([images[:2], images[2:]]), names='abc')
        assert whole.as_dict() == parts.as_dict()


class Smooth(nn.Module):
    """Two maps of different strides on the way to the logits, float64."""

    def __init__(self, stride=1):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 3, stride=stride), nn.Tanh(), nn.Conv2d(2, 3, 2), nn.Tanh())
        self.head = nn.Linear(3, 2)
        self.double()

    def forward(self, x, mode='tensor'):
        return self.head(self.backbone(x).mean((2, 3)))


def test_grad_cam_by_finite_differences():
    teacher, student, x = Smooth(), Smooth(stride=2), torch.randn(1, 3, 7, 7, dtype=torch.float64)
    (image,) = compare(teacher, student, x, layer='backbone.0', label=1).images
    for role, model in dict(teacher=teacher, student=student).items():
        feature = model.backbone[0](x).detach()

        def logit(f, model=model):
            return model.head(model.backbone[1:](f).mean((2, 3)))[0, 1].item()

        gradient = torch.zeros_like(feature)
        for i in np.ndindex(*feature.shape):
            step = torch.zeros_like(feature)
            step[i] = 1e-5
            gradient[i] = (logit(feature + step) - logit(feature - step)) / 2e-5
        cam = (gradient.mean((2, 3), keepdim=True) * feature).sum(1, keepdim=True).clamp(min=0)
        # maps of both sizes become as large as the image
        cam = F.interpolate(cam, (7, 7), mode='bilinear')[0, 0]
        torch.testing.assert_close(image.maps['grad_cam'][role].double(), cam, rtol=1e-5, atol=1e-6)


class Pooled(nn.Module):
    """A spiking classifier without a library around it."""

    def __init__(self, **backbone):
        super().__init__()
        self.backbone = SEWResNet(18, T=2, base_channels=4, **backbone)
        self.head = nn.Linear(32, 5)
        # no class without evidence for it
        nn.init.uniform_(self.head.weight, -0.1, 1)

    def forward(self, x, mode='tensor'):
        return self.head(self.backbone(x)[-1].mean((-1, -2)))


@pytest.fixture
def spiking(lively):
    def make(**backbone):
        model = Pooled(**backbone)
        lively(model.backbone)
        return model.eval()

    return make


class TestSpiking:
    @pytest.mark.parametrize('layer', ['backbone', 'backbone[3]', 'backbone.layer4'])
    def test_grad_cam_of_a_pooled_network_is_its_class_activation_map(self, spiking, layer):
        # global pooling and a linear layer behind the rates: CAM (Zhou et al., CVPR 2016)
        teacher, student, x = spiking(), spiking(), torch.randn(3, 3, 64, 64)
        report = compare(teacher, student, x, layer=layer)
        for i, image in enumerate(report.images):
            rates = student.backbone(x[i : i + 1])[3].detach().double()
            weight = student.head.weight[image.label].detach().double().view(1, -1, 1, 1)
            cam = (weight * rates).sum(1, keepdim=True).clamp(min=0) / rates[0, 0].numel()
            # inside, the gradient is spread over the steps
            cam = F.interpolate(cam, (64, 64), mode='bilinear')[0, 0] / (2 if layer == 'backbone.layer4' else 1)
            torch.testing.assert_close(image.maps['grad_cam']['student'].double(), cam, rtol=1e-4, atol=1e-7)
            assert cam.max() > 0
            assert image.maps['gradient']['student'].max() > 0

    def test_time_steps_in_the_answer_are_averaged(self, spiking):
        model, x = spiking(), torch.randn(1, 3, 64, 64)
        folded = copy.deepcopy(model)
        folded.backbone.readout.mode = 'none'
        a, b = (compare(model, student, x).images[0] for student in (model, folded))
        assert b.probability['student'] == pytest.approx(a.probability['student'], rel=1e-4)
        assert cosine(a.maps['grad_cam']['student'], b.maps['grad_cam']['student']) == pytest.approx(1)
        torch.testing.assert_close(a.maps['gradient']['student'], b.maps['gradient']['student'])

    def test_dead_network_is_flat_and_no_error(self, spiking):
        teacher, student = spiking(), spiking()
        student.backbone.layer4.requires_grad_(False)
        for parameter in student.backbone.layer4.parameters():
            parameter.zero_()
        report = compare(teacher, student, torch.randn(2, 3, 64, 64), names=['a'])
        figures = report.images[0].figures['grad_cam']
        assert [math.isnan(v) for v in vars(figures).values()] == [True, True, True, False, True]
        # no gradient, no drop, wherever the teacher looks
        assert figures.student_drop == 0
        assert report.flat('grad_cam') == report.flat('gradient') == dict(teacher=0, student=2)
        content = json.loads(json.dumps(report.as_dict(), allow_nan=False))
        assert content['mean']['grad_cam']['cosine'] == content['images'][1]['figures']['gradient']['iou'] == 'flat'
        assert [image['name'] for image in content['images']] == ['a', '1']
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(report.table())
        text = console.export_text()
        assert all(word in text for word in ('flat', 'Spearman', 'IoU top 10 %', 'gradient x input', 'mean', '+0.000'))
        assert "2 of the student's Grad-CAM" in ' '.join(text.split())

    def test_flat_images_are_left_out_of_the_means(self, spiking):
        teacher, student = spiking(), spiking()
        x = torch.randn(2, 3, 64, 64)
        # a constant product with the input
        x[1] = 0
        report = compare(teacher, student, x)
        assert report.flat('gradient') == dict(teacher=1, student=1)
        assert report.mean('gradient').cosine == report.images[0].figures['gradient'].cosine

    def test_poisson_spikes_carry_no_gradient(self, spiking):
        teacher = spiking()
        student = spiking(encoder=dict(type='PoissonEncoder'))
        (image,) = compare(teacher, student, torch.rand(1, 3, 64, 64)).images
        assert image.maps['gradient']['student'].max() == 0
        assert image.maps['grad_cam']['student'].max() > 0

    def test_event_frames(self, spiking, lively):
        # T frames of two polarities; the teacher spikes, too
        teacher, student = (Pooled(in_channels=2) for _ in range(2))
        frames = torch.randint(4, (2, 2, 2, 32, 32)).float()
        for model in (teacher, student):
            lively(model.backbone, frames)
        (image, _) = compare(teacher, student, frames).images
        x = frames[:1].requires_grad_()
        (gradient,) = torch.autograd.grad(student.eval()(x)[0, image.label], x)
        expected = (frames[0] * gradient[0]).abs().sum((0, 1))
        assert expected.max() > 0
        torch.testing.assert_close(image.maps['gradient']['student'], expected.detach())

    def test_frozen_stages_and_checkpointing_let_gradients_through(self, spiking):
        teacher = MODELS.build(tiny.classifier(False, norm_eval=True, frozen_stages=2, with_cp=True))
        student = spiking(frozen_stages=4, with_cp=True)
        (image,) = compare(teacher, student, torch.randn(1, 3, 64, 64)).images
        assert all(image.maps['gradient'][role].max() > 0 for role in ('teacher', 'student'))


def state(model):
    """All that a look could change."""
    return dict(
        modes=[m.training for m in model.modules()],
        hooks=[len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        attributes=[sorted(vars(m)) for m in model.modules()],
        fused=[m.fuse_norm for m in model.modules() if isinstance(m, Neuron)],
        checkpointing=[m.with_cp for m in model.modules() if 'with_cp' in vars(m)],
        learning=[p.requires_grad for p in model.parameters()],
        gradients=[p.grad is not None and p.grad.sum().item() for p in model.parameters()],
        values=[v.sum().item() for v in model.state_dict().values()],
    )


@pytest.mark.parametrize('label', [None, 7])
def test_models_stay_as_they_were(spiking, monkeypatch, label):
    # from one element on, norms and neurons run as one op, unless a hook watches the norm
    monkeypatch.setattr(mmsnn.neurons.base, 'FUSE_FROM', 1)
    teacher, student, x = spiking(with_cp=True), spiking(frozen_stages=1), torch.randn(2, 3, 64, 64)
    student.train()
    student(x).sum().backward()
    before = state(teacher), state(student)
    assert all(before[0]['fused']) and any(before[0]['checkpointing']) and not all(before[1]['learning'])
    if label is None:
        report = compare(teacher, student, x, layer='backbone.layer3.0.bn1', teacher_layer='backbone.layer2.0.bn2')
        assert report.layers == dict(teacher='backbone.layer2.0.bn2', student='backbone.layer3.0.bn1')
        assert report.flat('gradient') == dict(teacher=0, student=0)
    else:
        with pytest.raises(ValueError, match='label=7: the teacher has the classes 0 to 4'):
            compare(teacher, student, x, label=7, layer='backbone.layer3.0.bn1')
    assert (state(teacher), state(student)) == before


def test_what_is_kept_does_not_change_afterwards():
    class InPlace(Linear):
        def forward(self, x, mode='tensor'):
            feature = self.backbone(x)
            feature += 1
            return self.head(feature.flatten(1))

    model = InPlace()
    model.backbone = nn.Conv2d(3, 3, 1)
    x = torch.randn(1, 3, 6, 6)
    (image,) = compare(model, Linear(), x, label=0).images
    expected = grad_cam(model.backbone(x), model.weight(0)[None])
    torch.testing.assert_close(image.maps['grad_cam']['teacher'], expected.detach())


class TestDetection:
    @pytest.fixture
    def networks(self, lively):
        with DefaultScope.overwrite_default_scope('mmdet'):
            teacher, student = (MODELS.build(tiny.detector(spiking)) for spiking in (False, True))
        lively(student.backbone)
        for model in (teacher, student):
            # differences between boxes
            nn.init.normal_(model.bbox_head.retina_cls.weight)
        return teacher.eval(), student.eval()

    @pytest.mark.parametrize('label', [None, 3])
    def test_best_boxes_of_the_dense_head(self, networks, label):
        teacher, student = networks
        batch = tiny.Noise('mmdet').batch(0)
        report = compare(teacher, student, copy.deepcopy(batch), boxes=7, label=label)
        (image,) = report.images
        assert image.label == label
        assert image.explained == 'top 7 boxes' + (' of class 3' if label else '')
        x = student.data_preprocessor(batch, False)['inputs']
        for role, model in dict(teacher=teacher, student=student).items():
            with torch.no_grad():
                levels = model.bbox_head(model.extract_feat(x))[0]
            # as mmdet reads it
            p = torch.cat([z[0].permute(1, 2, 0).reshape(-1, tiny.CLASSES) for z in levels]).sigmoid()
            best = (p if label is None else p[:, label]).flatten().sort(descending=True).values[:7]
            assert image.probability[role] == pytest.approx(best.mean().item())
            assert image.maps['gradient'][role].max() > 0

    def test_the_same_boxes_are_looked_for_after_erasing(self, networks):
        teacher, student = networks
        x = torch.randn(1, 3, 64, 64)
        (image,) = compare(teacher, student, x, boxes=3).images
        erased = x * ~top_pixels(image.maps['gradient']['teacher'], 10)

        def probabilities(x):
            with torch.no_grad():
                levels = student.bbox_head(student.extract_feat(x))[0]
            return torch.cat([z[0].permute(1, 2, 0).flatten() for z in levels]).sigmoid()

        best = probabilities(x).topk(3).indices
        drop = (probabilities(x) - probabilities(erased))[best].mean().item()
        assert image.figures['gradient'].student_drop == pytest.approx(drop, abs=1e-6)

    def test_second_stage(self, networks):
        cfg = get_config('mmdet::_base_/models/faster-rcnn_r50_fpn.py').model.to_dict()
        cfg['type'], cfg['data_preprocessor']['type'] = 'mmdet.FasterRCNN', 'mmdet.DetDataPreprocessor'
        cfg['backbone'] = dict(type='mmdet.ResNet', depth=18, base_channels=8)
        cfg['neck'].update(in_channels=[8, 16, 32, 64], out_channels=8)
        cfg['rpn_head'].update(in_channels=8, feat_channels=8)
        cfg['roi_head']['bbox_roi_extractor'].update(out_channels=8)
        cfg['roi_head']['bbox_head'].update(in_channels=8, fc_out_channels=8, num_classes=tiny.CLASSES)
        cfg['test_cfg']['rpn'].update(max_per_img=50)
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(ConfigDict(cfg)).eval()
        nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight)
        x = torch.randn(1, 3, 64, 64)
        (image,) = compare(model, networks[1], x, boxes=5, label=2).images
        from mmdet.structures import DetDataSample

        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), scale_factor=(1.0, 1.0)))
        with torch.no_grad():
            scores = model(x, [sample], mode='tensor')[0][0].softmax(1)[:, 2]
        assert len(scores) > 5
        assert image.probability['teacher'] == pytest.approx(scores.topk(5).values.mean().item(), rel=1e-4)
        assert image.maps['gradient']['teacher'].max() > 0
        # in front of a cascade, the RPN answers
        model.roi_head.bbox_head = nn.ModuleList([model.roi_head.bbox_head])
        (image,) = compare(model, networks[1], x, boxes=5).images
        with torch.no_grad():
            objects = torch.cat([z.flatten() for z in model.rpn_head(model.extract_feat(x))[0]]).sigmoid()
        assert image.probability['teacher'] == pytest.approx(objects.topk(5).values.mean().item(), rel=1e-4)

    def test_no_dense_head(self, networks):
        networks[0].bbox_head = nn.Linear(1, 1)
        with pytest.raises(TypeError, match='the teacher, a RetinaNet, has no dense head'):
            compare(*networks, torch.randn(1, 3, 64, 64))


def segmentor(spiking, classes=3):
    ann = dict(type='mmseg.ResNet', depth=18, base_channels=8, strides=(1, 2, 1, 1), norm_cfg=dict(type='BN'))
    return MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(
                type='mmseg.SegDataPreProcessor', mean=tiny.MEAN, std=tiny.STD, test_cfg=dict(size_divisor=32)
            ),
            backbone=dict(tiny.SPIKING) if spiking else ann,
            decode_head=dict(
                type='mmseg.FCNHead', in_channels=64, channels=64, num_convs=0, concat_input=False, num_classes=classes,
                out_channels=classes, in_index=3, norm_cfg=dict(type='BN'), threshold=0.5,
            ),
            test_cfg=dict(mode='whole'),
        )
    ).eval()  # fmt: skip


class TestSegmentation:
    @pytest.mark.parametrize('label', [None, 1])
    def test_the_teachers_class_on_its_pixels(self, lively, label):
        from mmseg.structures import SegDataSample

        # other strides, and padding to 64
        teacher, student = segmentor(False), segmentor(True)
        lively(student.backbone)
        nn.init.normal_(teacher.decode_head.conv_seg.weight)
        image = torch.randint(256, (3, 50, 64), dtype=torch.uint8)
        sample = SegDataSample(metainfo=dict(img_shape=(50, 64), ori_shape=(50, 64)))
        (found,) = compare(teacher, student, dict(inputs=[image], data_samples=[sample]), label=label).images
        x = torch.stack([(c - m) / s for c, m, s in zip(image.float(), tiny.MEAN, tiny.STD)])[None]
        logits = {}
        for role, model in dict(teacher=teacher, student=student).items():
            with torch.no_grad():
                small = model.decode_head(model.extract_feat(F.pad(x, (0, 0, 0, 14))))
            logits[role] = F.interpolate(small, (64, 64), mode='bilinear')[0, :, :50]
        seen = logits['teacher'].argmax(0)
        y = int(np.bincount(seen.flatten()).argmax()) if label is None else label
        assert found.label == y
        for role, z in logits.items():
            p = z.softmax(0)[y][seen == y].mean().item()
            assert found.probability[role] == pytest.approx(p, rel=1e-4)
            assert found.maps['gradient'][role].shape == found.maps['grad_cam'][role].shape == (50, 64)
            assert found.maps['gradient'][role].max() > 0

    def test_one_sigmoid_is_two_classes(self, lively):
        teacher, student = segmentor(False, 1), segmentor(True, 1)
        lively(student.backbone)
        x = torch.randn(1, 3, 64, 64)
        (found,) = compare(teacher, student, x, label=1).images
        with torch.no_grad():
            z = F.interpolate(teacher.decode_head(teacher.extract_feat(x)), (64, 64), mode='bilinear')[0, 0]
        where = z > 0 if (z > 0).any() else torch.ones_like(z).bool()
        assert found.probability['teacher'] == pytest.approx(z.sigmoid()[where].mean().item(), rel=1e-4)


class TestErrors:
    def test_distillers_are_compared_by_their_students(self):
        student = tiny.classifier(True)
        plain, distiller = MODELS.build(student), MODELS.build(dict(type='mmsnn.Distiller', student=student))
        distiller.load_state_dict(plain.state_dict())
        x = torch.randn(1, 3, 64, 64)
        assert compare(Given(), distiller, x).as_dict() == compare(Given(), plain, x).as_dict()

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(top=0), 'top is a percentage between 0 and 100, got 0'),
            (dict(boxes=0), 'boxes must be at least 1'),
            (dict(label=-1), 'label=-1: the teacher has the classes 0 to 4'),
            (dict(layer='backbone.layer9'), "student tap 'backbone.layer9'.*backbone has conv1, .*layer4"),
            (dict(teacher_layer='trunk'), "teacher tap 'trunk'.*the model has backbone, head"),
            (dict(layer='backbone[7]'), r'student layer backbone\[7\] gives 4 outputs'),
            (dict(layer='head'), r'student layer head gives a tensor \(1, 5\)'),
            (dict(layer='backbone|head'), 'is something else'),
            (dict(layer='a b'), 'a tap is written'),
            (dict(layer='unused'), 'student layer unused ran 0 times'),
            (dict(layer='beside'), 'student layer beside does not affect the output'),
        ],
    )
    def test_arguments(self, spiking, arguments, message):
        student = spiking()
        student.unused, student.beside = nn.Identity(), nn.Conv2d(3, 2, 1)
        student.register_forward_pre_hook(lambda model, inputs: (model.beside(inputs[0]), None)[1])
        with pytest.raises(ValueError, match=message):
            compare(spiking(), student, torch.randn(1, 3, 64, 64), **{'teacher_layer': 'backbone', **arguments})

    def test_models_that_do_not_fit(self, spiking):
        x = torch.randn(1, 3, 64, 64)
        with pytest.raises(TypeError, match='the student, a ReLU, is not a classifier'):
            compare(spiking(), nn.ReLU(), x)
        other = spiking()
        other.head = nn.Linear(32, 6)
        with pytest.raises(ValueError, match='5 of the teacher and 6 of the student'):
            compare(spiking(), other, x)
        with pytest.raises(ValueError, match='a teacher for segmentation and a student for classification'):
            compare(segmentor(False), spiking(), x)

    def test_images(self, spiking):
        with pytest.raises(ValueError, match='no images'):
            compare(spiking(), spiking(), [])
        with pytest.raises(TypeError, match='inputs'):
            compare(spiking(), spiking(), [dict(images=1)])
        with pytest.raises(ValueError, match=r'images must be \[B, C, H, W\]'):
            compare(spiking(), spiking(), torch.zeros(3, 64, 64))


class Given(nn.Module):
    """A teacher of five classes that is no matter."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.backbone, self.head = nn.Identity(), nn.Linear(3, 5)
        self.head.weight.data.normal_(generator=generator)

    def forward(self, x, mode='tensor'):
        return self.head(self.backbone(x).mean((2, 3)))
