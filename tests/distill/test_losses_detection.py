"""Losses for detectors, worked out number by number."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from formulas import approx, kl, maps, sigmoid, softmax, wave
from torch import nn

from mmsnn.distill import FGD, BoxResponse, DenseResponse


class TestDenseResponse:
    def formula(self, levels, classes):
        total, norm = 0.0, 0.0
        for s, t in levels:
            B, AC, H, W = s.shape
            for b, a, h, w in product(range(B), range(AC // classes), range(H), range(W)):
                probabilities = []
                for c in range(classes):
                    # anchors outside, classes inside, as mmdet's heads reshape
                    x, y = (sigmoid(z[b, a * classes + c, h, w].item()) for z in (s, t))
                    total += (x - y) ** 2 * -(y * math.log(x) + (1 - y) * math.log(1 - x))
                    probabilities.append(y)
                norm += max(probabilities)
        return total / max(norm, 1.0)

    def test_formula(self):
        levels = [(maps(2, 6, 2, 3), maps(2, 6, 2, 3)), (maps(2, 6, 1, 2), maps(2, 6, 1, 2))]
        assert DenseResponse(num_classes=3)(*zip(*levels)).item() == pytest.approx(self.formula(levels, 3), **approx)

    def test_where_the_teacher_sees_nothing(self):
        """Divided by at least 1."""
        s, t = maps(1, 3, 1, 1), maps(1, 3, 1, 1) - 9
        assert t.sigmoid().max() < 0.5
        assert DenseResponse(num_classes=3)([s], [t]).item() == pytest.approx(self.formula([(s, t)], 3), **approx)

    @staticmethod
    def model(**classes):
        model = nn.Module()
        for head, number in classes.items():
            setattr(model, head, SimpleNamespace(cls_out_channels=number))
        return model

    def test_classes_are_the_heads(self):
        loss = DenseResponse()
        loss.bind(self.model(bbox_head=7), self.model(bbox_head=7))
        assert loss.num_classes == 7
        loss = DenseResponse(head='rpn_head')
        loss.bind(self.model(rpn_head=1, bbox_head=80), self.model(rpn_head=1))
        assert loss.num_classes == 1

    @pytest.mark.parametrize('student, teacher', [(3, 5), (None, None)])
    def test_classes_that_differ(self, student, teacher):
        models = [self.model() if n is None else self.model(bbox_head=n) for n in (student, teacher)]
        with pytest.raises(ValueError, match=f'bbox_head are {student} in the student and {teacher} in the teacher'):
            DenseResponse().bind(*models)


def heads(**attributes):
    """A model whose head has these attributes."""
    model = nn.Module()
    model.bbox_head = SimpleNamespace(**attributes)
    return model


class TestBoxResponse:
    CLASSES = 3

    def loss(self, bins=1, **options):
        loss = BoxResponse(**options)
        model = heads(cls_out_channels=self.CLASSES, **(dict(reg_max=bins - 1) if bins > 1 else {}))
        loss.bind(model, model)
        return loss

    def pair(self, sizes=((2, 3), (1, 2)), anchors=2, bins=1):
        """Class logits of each level, followed by boxes, of student and teacher."""
        channels = [anchors * self.CLASSES] * len(sizes) + [anchors * 4 * bins] * len(sizes)
        return [[maps(2, c, *size) for c, size in zip(channels, (*sizes, *sizes))] for _ in range(2)]

    def formula(self, student, teacher, anchors, difference, bins=1):
        half = len(student) // 2
        total, norm = 0.0, 0.0
        for s, t, z in zip(student[half:], teacher[half:], teacher[:half]):
            for b, a, h, w in product(range(2), range(anchors), *map(range, z.shape[2:])):
                p = max(sigmoid(z[b, a * self.CLASSES + c, h, w].item()) for c in range(self.CLASSES))
                ours, theirs = (x[b, a * 4 * bins : (a + 1) * 4 * bins, h, w].tolist() for x in (s, t))
                total, norm = total + p * difference(ours, theirs), norm + p
        return total / max(norm, 1.0)

    def test_numbers(self):
        student, teacher = self.pair()
        expected = self.formula(student, teacher, 2, lambda s, t: sum(abs(x - y) for x, y in zip(s, t)) / 4)
        assert self.loss()(student, teacher).item() == pytest.approx(expected, **approx)

    @pytest.mark.parametrize('tau', [1.0, 10.0])
    def test_distributions(self, tau):
        """GFL's head answers a distribution for each side."""
        student, teacher = self.pair(anchors=1, bins=5)

        def difference(s, t):
            return sum(kl(t[i : i + 5], s[i : i + 5], tau) for i in range(0, 20, 5)) / 4

        expected = self.formula(student, teacher, 1, difference, bins=5)
        assert self.loss(bins=5, tau=tau)(student, teacher).item() == pytest.approx(expected, **approx)

    def test_where_the_teacher_sees_nothing(self):
        """Divided by at least 1: nothing explodes, nothing is NaN."""
        student, teacher = self.pair(sizes=[(1, 1)])
        for shift in (5, 2000):
            teacher = [teacher[0] - shift, teacher[1]]
            value = self.loss()(student, teacher)
            assert value.isfinite() and value < 0.3
        assert value == 0

    def test_its_classes_get_no_gradient(self):
        student, teacher = self.pair()
        for x in student:
            x.requires_grad_()
        self.loss()(student, teacher).backward()
        assert all(x.grad is None for x in student[:2]) and all(x.grad.abs().sum() > 0 for x in student[2:])

    def test_refused(self):
        loss = self.loss()
        student, teacher = self.pair()
        loss.check(student, teacher)
        with pytest.raises(ValueError, match=r"as many class logits as boxes, got 3 tensors: tap \['bbox_head\[0\]'"):
            loss.check(student[:3], teacher[:3])
        with pytest.raises(ValueError, match='reads class logits .* got'):
            loss.check(student[2:] + student[:2], teacher[2:] + teacher[:2])
        with pytest.raises(ValueError, match='equal anchors'):
            loss.check(self.pair(anchors=1)[0], teacher)
        with pytest.raises(ValueError, match='17 numbers for a side of a box in the student and 1 in the teacher'):
            loss.bind(heads(cls_out_channels=3, reg_max=16), heads(cls_out_channels=3))
        with pytest.raises(ValueError, match='BoxResponse is for heads whose classes are sigmoids'):
            loss.bind(heads(use_sigmoid_cls=False), heads(use_sigmoid_cls=False))


class TestFGD:
    SIDE = 48
    # by image, in pixels; a map of 6 x 6 cells has 8 pixels a cell
    BOXES = [[[8.0, 4.0, 20.0, 20.0], [12.0, 30.0, 40.0, 44.0]], [[0.0, 0.0, 9.0, 20.0]]]

    def samples(self, boxes=BOXES, **metainfo):
        metainfo = dict(img_shape=(self.SIDE, self.SIDE), **metainfo)
        boxes = [torch.tensor(each).view(-1, 4) for each in boxes]
        return [SimpleNamespace(gt_instances=SimpleNamespace(bboxes=each), metainfo=metainfo) for each in boxes]

    @pytest.mark.parametrize(
        'weights, value',
        [
            ((1, 0, 0), 6.356774806976318),
            ((0, 1, 0), 5.2040019035339355),
            ((0, 0, 1), 44.46993637084961),
            ((1e-3, 5e-4, 1e-3), 0.053428713232278824),
        ],
    )
    def test_authors_code(self, weights, value):
        """mmdet/distillation/losses/fgd.py (commit f1da292) without its global part, run apart from this."""
        s, t = wave(2, 4, 6, 6), wave(2, 4, 6, 6, phase=1.0)
        assert FGD(0.5, *weights)([s], [t], self.samples()).item() == pytest.approx(value, rel=1e-5)

    def test_defaults(self):
        s, t = wave(2, 4, 6, 6), wave(2, 4, 6, 6, phase=1.0)
        assert FGD()([s], [t], self.samples()).item() == pytest.approx(0.053428713232278824, rel=1e-5)

    def test_formula(self):
        """Height and width differ, and so do the images' boxes."""
        s, t = maps(2, 3, 4, 6), maps(2, 3, 4, 6)
        samples = self.samples()
        for sample in samples:
            sample.metainfo['img_shape'] = (32, 48)
        total = 0.0
        for b in range(2):
            areas = {}
            for x0, y0, x1, y1 in self.BOXES[b]:
                x0, y0, x1, y1 = math.floor(x0 / 8), math.floor(y0 / 8), math.ceil(x1 / 8), math.ceil(y1 / 8)
                for h, w in product(range(max(y0, 0), min(y1, 3) + 1), range(x0, min(x1, 5) + 1)):
                    areas[h, w] = max(areas.get((h, w), 0), 1 / ((x1 - x0 + 1) * (y1 - y0 + 1)))
            attention = []
            for x in (t, s):
                where = [sum(abs(x[b, c, h, w].item()) for c in range(3)) / 3 for h in range(4) for w in range(6)]
                which = [x[b, c].abs().mean().item() for c in range(3)]
                attention.append([[24 * p for p in softmax(where, 0.5)], [3 * p for p in softmax(which, 0.5)]])
            (where, which), ours = attention
            for c, h, w in product(range(3), range(4), range(6)):
                mask = 2.0 * areas[h, w] if (h, w) in areas else 0.7 / (24 - len(areas))
                total += mask * where[6 * h + w] * which[c] * (s[b, c, h, w] - t[b, c, h, w]).item() ** 2
            for side, other in zip((where, which), ours):
                total += 0.3 * sum(abs(x - y) for x, y in zip(side, other))
        value = FGD(alpha=2.0, beta=0.7, gamma=0.3)([s], [t], samples)
        assert value.item() == pytest.approx(total / 2, **approx)

    def test_padding(self):
        """A map shows the padded image."""
        s, t = maps(2, 4, 6, 6), maps(2, 4, 6, 6)
        padded = self.samples(batch_input_shape=(2 * self.SIDE, 2 * self.SIDE))
        halves = [[[x / 2 for x in box] for box in each] for each in self.BOXES]
        assert FGD()([s], [t], padded) == FGD()([s], [t], self.samples(halves))

    def test_images_without_boxes(self):
        """Everything is background, as without any data samples."""
        s, t = maps(2, 4, 6, 6), maps(2, 4, 6, 6)
        assert FGD()([s], [t], self.samples([[], []])) == FGD()([s], [t]) > 0

    def test_other_tasks(self):
        s, t = maps(1, 4, 6, 6), maps(1, 4, 6, 6)
        with pytest.raises(ValueError, match='gt_instances.bboxes, and the data samples have none'):
            FGD()([s], [t], [SimpleNamespace(gt_label=torch.tensor([1]))])
