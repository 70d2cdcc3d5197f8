"""Focal losses: against formulas, and against a compiled mmcv where there is one and a GPU."""

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops

from mmsnn.mmcv_ops import focal_loss


def logits_and_targets(n=40, classes=5, seed=0, dtype=torch.float32):
    """Logits of both signs and targets; ``classes`` itself is background."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=g).to(dtype) * 3, torch.randint(0, classes + 1, (n,), generator=g)


@pytest.mark.usefixtures('standin')
class TestFocalLoss:
    @pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
    def test_sigmoid_equals_the_definition(self, gamma):
        logits, target = logits_and_targets()
        weight = torch.rand(6)
        one_hot = F.one_hot(target, 6)[:, :5].float()
        p = logits.sigmoid()
        right = torch.where(one_hot.bool(), p, 1 - p)
        balance = 0.3 * one_hot + 0.7 * (1 - one_hot)
        plain = balance * (1 - right) ** gamma * F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none')
        got = ops.sigmoid_focal_loss(logits, target, gamma, 0.3, None, 'none')
        torch.testing.assert_close(got, plain)
        torch.testing.assert_close(ops.sigmoid_focal_loss(logits, target, gamma, 0.3, None, 'mean'), plain.sum() / 40)
        weighted = torch.empty_like(logits)
        focal_loss.sigmoid_focal_loss_forward(logits, target, weight, weighted, gamma=gamma, alpha=0.3)
        torch.testing.assert_close(weighted, plain * weight[target][:, None])

    @pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
    def test_softmax_equals_the_definition(self, gamma):
        logits, target = logits_and_targets()
        target = target % 5
        weight = torch.rand(5)
        p = logits.softmax(1)[torch.arange(40), target]
        plain = -0.3 * (1 - p) ** gamma * p.log() * weight[target]
        torch.testing.assert_close(ops.softmax_focal_loss(logits, target, gamma, 0.3, weight, 'none'), plain)
        ignored = torch.empty(40)
        focal_loss.softmax_focal_loss_forward(logits.softmax(1), target - 5, weight, ignored, gamma=gamma, alpha=0.3)
        assert not ignored.any()

    @pytest.mark.parametrize('name', ['sigmoid_focal_loss', 'softmax_focal_loss'])
    @pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
    def test_gradient(self, name, gamma):
        logits, target = logits_and_targets(n=6, dtype=torch.float64)
        loss, target = getattr(ops, name), target % 5
        weight = torch.rand(5, dtype=torch.float64)
        logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: loss(x, target, gamma, 0.3, weight, 'mean'), logits)

    def test_finite_far_out(self):
        for gamma in (0.0, 0.5, 2.0):
            logits = torch.tensor([[-200.0, 20.0, 200.0]] * 2, requires_grad=True)
            loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 3]), gamma, 0.25, None, 'none')
            loss.sum().backward()
            assert logits.grad.isfinite().all()
            assert loss[1, 1].item() == pytest.approx(0.75 * 20)


@pytest.mark.usefixtures('compiled')
class TestAgainstCompiled:
    @pytest.mark.skipif(
        not torch.cuda.is_available() or ops.get_compiling_cuda_version() == 'not available',
        reason='mmcv compiles focal losses for the GPU alone',
    )
    @pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
    def test_focal_loss(self, kind):
        logits, target = (x.cuda() for x in logits_and_targets())
        target, weight = target % 5, torch.rand(5, device='cuda')
        logits.requires_grad_()
        ours = focal_loss.sigmoid_focal if kind == 'sigmoid' else focal_loss.softmax_focal
        expected = getattr(ops, f'{kind}_focal_loss')(logits, target, 2.0, 0.25, weight, 'sum')
        torch.testing.assert_close(ours(logits, target, weight, 2.0, 0.25).sum(), expected)
        (grad,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(focal_loss.gradient(ours, logits, target, weight, 2.0, 0.25), grad)
