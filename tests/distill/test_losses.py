"""Every loss against its formula, worked out number by number in double precision."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmsnn.distill import ChannelWiseKL, ConvBN, DenseResponse, DistillLoss, FeatureMSE, LogitKL, PixelKL
from mmsnn.registry import MODELS


def softmax(values, tau):
    exps = [math.exp(v / tau) for v in values]
    return [e / sum(exps) for e in exps]


def kl(teacher, student, tau):
    """tau^2 * KL(teacher || student) of two lists of logits."""
    p, q = softmax(teacher, tau), softmax(student, tau)
    return tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64) * 2


# float32 inside, whatever comes in
approx = {'rel': 1e-5, 'abs': 1e-6}

# losses that compare two tensors of one shape, and that shape
PAIRS = {
    'FeatureMSE': (FeatureMSE, (3, 4, 5, 6)),
    'LogitKL': (lambda: LogitKL(tau=2.0), (3, 7)),
    'PixelKL': (lambda: PixelKL(tau=2.0), (3, 4, 5, 6)),
    'ChannelWiseKL': (ChannelWiseKL, (3, 4, 5, 6)),
    'DenseResponse': (lambda: DenseResponse(num_classes=4), (3, 8, 5, 6)),
}


class TestAll:
    @pytest.fixture(params=PAIRS)
    def pair(self, request):
        make, shape = PAIRS[request.param]
        return make(), maps(*shape), maps(*shape)

    def test_all_are_here(self):
        registered = {c.__name__ for c in MODELS.module_dict.values() if issubclass(c, DistillLoss)}
        assert registered == set(PAIRS), 'add the new loss to PAIRS, and a test of its formula'

    def test_equal_features_cost_nothing(self, pair):
        loss, s, _ = pair
        s.requires_grad_()
        value = loss([s], [s.detach().clone()])
        value.backward()
        assert value.dim() == 0 and value.item() == pytest.approx(0, abs=1e-6)
        assert s.grad.abs().max() < 1e-6

    def test_gradient_descends(self, pair):
        """The gradient leads towards the teacher, and none reaches a teacher that is run without grad."""
        loss, s, t = pair
        s.requires_grad_()
        before = loss([s], [t])
        before.backward()
        assert not t.requires_grad and s.grad.abs().sum() > 0
        step = 1e-2 / s.grad.abs().max()
        assert loss([(s - step * s.grad).detach()], [t]) < before

    def test_levels(self, pair):
        """Of two equal levels the sum is twice the loss; only the dense response is normalised over all levels."""
        loss, s, t = pair
        once, twice = loss([s], [t]).item(), loss([s, s], [t, t]).item()
        assert once > 0
        assert twice == pytest.approx(once if isinstance(loss, DenseResponse) else 2 * once, **approx)
        with pytest.raises(ValueError):
            loss([s, s], [t])

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, pair, dtype):
        loss, s, t = pair
        s, t = s.to(dtype), t.to(dtype)
        value = loss([s], [t])
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss([s.float()], [t.float()]))


class TestFeatureMSE:
    def test_formula(self):
        """Mean over all elements of each stage, summed over stages."""
        stages = [(maps(2, 3, 4, 4), maps(2, 3, 4, 4)), (maps(2, 5, 2, 2), maps(2, 5, 2, 2))]
        expected = 0.0
        for s, t in stages:
            differences = [(a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist())]
            expected += sum(differences) / len(differences)
        assert FeatureMSE()(*zip(*stages)).item() == pytest.approx(expected, **approx)

    def test_by_hand(self):
        # (1 + 4) / 2
        assert FeatureMSE()([torch.tensor([[1.0, 2.0]])], [torch.tensor([[0.0, 4.0]])]).item() == 2.5


class TestLogitKL:
    @pytest.mark.parametrize('tau', [1.0, 2.0, 4.0])
    def test_formula(self, tau):
        """Summed over classes, mean over the batch."""
        s, t = maps(3, 5), maps(3, 5)
        expected = sum(kl(b, a, tau) for a, b in zip(s.tolist(), t.tolist())) / 3
        assert LogitKL(tau)([s], [t]).item() == pytest.approx(expected, **approx)

    def test_direction(self):
        """KL(teacher || student): large where the student is sure and the teacher is not."""
        sure, unsure = torch.tensor([[0.0, 20.0]]), torch.tensor([[0.0, 0.0]])
        # .5 log(.5 / e^-20) + .5 log(.5 / 1)
        assert LogitKL()([sure], [unsure]).item() == pytest.approx(10 - math.log(2), rel=1e-5)
        assert LogitKL()([unsure], [sure]).item() == pytest.approx(math.log(2), rel=1e-5)

    def test_gradient(self):
        """tau * (student - teacher) / B: the square of tau keeps the size of the gradient."""
        s, t = maps(3, 5).requires_grad_(), maps(3, 5)
        LogitKL(tau=3.0)([s], [t]).backward()
        for row, a, b in zip(s.grad.tolist(), s.tolist(), t.tolist()):
            expected = [3 * (q - p) / 3 for p, q in zip(softmax(b, 3.0), softmax(a, 3.0))]
            assert row == pytest.approx(expected, **approx)


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


class TestPixelKL:
    def formula(self, s, t, tau, valid):
        values = [
            kl(t[b, :, h, w].tolist(), s[b, :, h, w].tolist(), tau)
            for b, h, w in product(*(range(n) for n in (s.shape[0], *s.shape[2:])))
            if valid[b, h, w]
        ]
        return sum(values) / max(len(values), 1)

    @staticmethod
    def samples(labels):
        return [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label[None])) for label in labels]

    @pytest.mark.parametrize('tau', [1.0, 3.0])
    def test_formula(self, tau):
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        every = torch.ones(2, 4, 5)
        assert PixelKL(tau)([s], [t]).item() == pytest.approx(self.formula(s, t, tau, every), **approx)
        labels = torch.randint(3, (2, 4, 5))
        labels[0, :2], labels[1, :, 3] = 255, 255
        expected = self.formula(s, t, tau, labels != 255)
        assert PixelKL(tau)([s], [t], self.samples(labels)).item() == pytest.approx(expected, **approx)

    def test_other_mark_and_size(self):
        """The label map is brought to the size of the logits."""
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        labels = torch.randint(3, (2, 4, 5))
        labels[1, 2:] = 7
        large = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        expected = self.formula(s, t, 1.0, labels != 7)
        assert PixelKL(ignore_index=7)([s], [t], self.samples(large)).item() == pytest.approx(expected, **approx)

    def test_everything_ignored(self):
        s, t = maps(2, 3, 4, 5).requires_grad_(), maps(2, 3, 4, 5)
        value = PixelKL()([s], [t], self.samples(torch.full((2, 4, 5), 255)))
        value.backward()
        assert value == 0 and not s.grad.any()


class TestChannelWiseKL:
    @pytest.mark.parametrize('tau', [1.0, 4.0])
    def test_formula(self, tau):
        """Softmax over the positions of a channel; mean over batch and channels."""
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        values = [
            kl(t[b, c].flatten().tolist(), s[b, c].flatten().tolist(), tau) for b, c in product(range(2), range(3))
        ]
        assert ChannelWiseKL(tau)([s], [t]).item() == pytest.approx(sum(values) / 6, **approx)

    def test_default_temperature(self):
        s, t = maps(2, 3, 4, 5), maps(2, 3, 4, 5)
        assert ChannelWiseKL()([s], [t]) == ChannelWiseKL(4.0)([s], [t])


class TestConvBN:
    @pytest.mark.parametrize('kernel', [1, 3])
    def test_is_sakds_projector(self, kernel):
        """Bias-free convolution, norm, no activation; the size stays."""
        conv, norm = ConvBN(4, 6, kernel)
        assert conv.bias is None and conv.kernel_size == (kernel, kernel) and norm.num_features == 6
        x = torch.randn(3, 4, 5, 5)
        out = ConvBN(4, 6, kernel)(x)
        assert out.shape == (3, 6, 5, 5) and out.min() < 0
