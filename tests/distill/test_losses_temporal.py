"""Losses on the logits of single time steps, worked out number by number."""

import math

import pytest
import torch
from formulas import approx, kl, maps, mean, one_hot, samples, soft_ce, softmax, wave
from torch.nn.functional import interpolate

from mmsnn.distill import (
    ETC,
    TET,
    TKS,
    DenseResponse,
    Progress,
    SeAl,
    StepLogitKL,
    StrongWeak,
    TemporalSeparation,
    TemporalSpatialSelf,
)

LABELS = (1, 4, 0)
TARGETS = [one_hot(k, 5) for k in LABELS]
# steps and teacher of the figures that the authors' code gave, with labels of which step 0, 1, 2 name 1, 2, 3;
# the last image is never right
FIXED = dict(z=wave(3, 4, 5) + wave(4, 5, phase=2.0), t=wave(4, 5, phase=1.0), y=samples(0, 3, 0, 1))


@pytest.fixture
def z():
    return maps(4, 3, 5)


@pytest.fixture
def t():
    return maps(3, 5)


def step_ce(z, targets=TARGETS):
    return mean(soft_ce(y, row) for step in z.tolist() for y, row in zip(targets, step))


def step_kl(teacher, z, tau):
    """Mean over the steps and the batch."""
    return mean(kl(a, b, tau) for step in z.tolist() for a, b in zip(teacher.tolist(), step))


def batch_kl(teacher, student, tau):
    return mean(kl(a, b, tau) for a, b in zip(teacher.tolist(), student.tolist()))


class TestTemporalSpatialSelf:
    def test_formula(self):
        """Both halves of a batch: after the first steps, after all."""
        z, w = maps(6, 5), maps(6, 5)
        short, full, weak = z[:3], z[3:], w[:3]
        temporal, spatial = batch_kl(full, short, 3.0), batch_kl(short, weak, 3.0)
        loss = TemporalSpatialSelf(dict(type='LogitKL', tau=3.0), alpha=0.5, beta=0.7)
        assert loss([z, w], []).item() == pytest.approx(0.5 * temporal + 0.7 * spatial, **approx)
        no_weak_head = TemporalSpatialSelf(dict(type='LogitKL', tau=3.0), alpha=0.5, weak=0)
        assert no_weak_head([z], []).item() == pytest.approx(0.5 * temporal, **approx)

    def test_defaults(self):
        z, w = maps(6, 5), maps(6, 5)
        explicit = TemporalSpatialSelf(dict(type='LogitKL', tau=2.0), alpha=1.0, beta=1.0, weak=1)
        assert TemporalSpatialSelf()([z, w], []) == explicit([z, w], [])

    def test_equal_answers_cost_nothing(self):
        z = maps(3, 5).repeat(2, 1)
        assert TemporalSpatialSelf()([z, z], []).item() == pytest.approx(0, abs=1e-6)

    def test_both_teachers_are_stopped(self):
        """All steps teach the first ones, and these the weak head."""
        z, w = maps(6, 5).requires_grad_(), maps(6, 5).requires_grad_()
        TemporalSpatialSelf(alpha=1.0, beta=0.0)([z, w], []).backward()
        assert z.grad[:3].any() and not z.grad[3:].any()
        z.grad = None
        TemporalSpatialSelf(alpha=0.0, beta=1.0)([z, w], []).backward()
        assert not z.grad.any()
        assert w.grad[:3].any() and not w.grad[3:].any()

    def test_maps(self):
        """Of a segmentor: the weak head's map is brought to the size of the answer's, pixel by pixel."""
        z, w = maps(4, 5, 4, 6), maps(4, 5, 2, 3)
        loss = TemporalSpatialSelf(dict(type='PixelKL', tau=2.0), alpha=0.5, beta=0.7)
        pixels = [x.movedim(1, -1).reshape(-1, 5) for x in (*z.chunk(2), interpolate(w, (4, 6), mode='bilinear')[:2])]
        short, full, weak = pixels
        expected = 0.5 * batch_kl(full, short, 2.0) + 0.7 * batch_kl(short, weak, 2.0)
        assert loss([z, w], []).item() == pytest.approx(expected, **approx)

    def test_levels(self):
        """Of a detector: every level teaches itself, the weak head stands for the first."""
        levels, w = [maps(4, 6, 4, 4), maps(4, 6, 2, 2)], maps(4, 6, 4, 4)
        response = DenseResponse(num_classes=3)
        loss = TemporalSpatialSelf(dict(type='DenseResponse', num_classes=3), beta=0.7)
        temporal = response([x[:2] for x in levels], [x[2:] for x in levels])
        torch.testing.assert_close(loss([*levels, w], []), temporal + 0.7 * response([w[:2]], [levels[0][:2]]))

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype):
        z, w = (maps(6, 5).to(dtype).requires_grad_() for _ in range(2))
        value = TemporalSpatialSelf()([z, w], [])
        value.backward()
        assert value.dtype == torch.float32 and z.grad.isfinite().all() and w.grad.isfinite().all()

    def test_errors(self):
        with pytest.raises(ValueError, match='weak=1 leaves none of 1 tensors to the head'):
            TemporalSpatialSelf()([maps(6, 5)], [])


class TestTET:
    def test_formula(self, z):
        regulariser = mean((v - 0.5) ** 2 for v in z.flatten().tolist())
        expected = 0.9 * step_ce(z) + 0.1 * regulariser
        assert TET(l=0.1, v_threshold=0.5)([z], [], samples(*LABELS)).item() == pytest.approx(expected, **approx)

    def test_defaults(self, z):
        explicit = TET(l=1e-3, v_threshold=1.0)([z], [], samples(*LABELS))
        assert TET()([z], [], samples(*LABELS)) == explicit

    def test_soft_labels(self, z):
        targets = [[0.4, 0.6, 0.0, 0.0, 0.0]] * 3
        assert TET(l=0.0)([z], [], samples(*targets)).item() == pytest.approx(step_ce(z, targets), **approx)


class TestStepLogitKL:
    def test_formula(self, z, t):
        expected = step_ce(z) + 0.2 * step_kl(t, z, 3.0) + 0.5 * step_kl(z.mean(0), z, 3.0)
        value = StepLogitKL(right_only=False)([z], [t], samples(*LABELS)).item()
        assert value == pytest.approx(expected, **approx)

    def test_ensemble_of_the_right_steps(self):
        z, t = FIXED['z'], FIXED['t']
        targets = [one_hot(k, 5) for k in (0, 3, 0, 1)]
        ensemble = torch.stack([z[1:, 0].mean(0), z[2, 1], z[:, 2].mean(0), torch.zeros(5)])
        expected = step_ce(z, targets) + 0.3 * step_kl(t, z, 2.0) + 0.6 * step_kl(ensemble, z, 2.0)
        loss = StepLogitKL(alpha=0.3, beta=0.6, tau=2.0)
        assert loss([z], [t], FIXED['y']).item() == pytest.approx(expected, **approx)

    def test_released_code(self):
        """cal_loss, make_teacher and kd_loss of the authors (model/layer.py, commit e3f5fd4), summed as in
        experiment/cifar/main.py with alpha 0.2 and beta 0.5, run apart from this.
        """
        value = StepLogitKL()([FIXED['z']], [FIXED['t']], FIXED['y'])
        assert value.item() == pytest.approx(1.619409184417774, rel=1e-5)

    def test_ensemble_is_stopped(self, z, t):
        """Each step's gradient is tau * (p_t - p_ens) / (T * B)."""
        z.requires_grad_()
        StepLogitKL(0.0, 1.0, tau=2.0, right_only=False)([z], [t], samples(*LABELS)).backward()
        (ce,) = torch.autograd.grad(StepLogitKL(0.0, 0.0)([z], [t], samples(*LABELS)), z)
        expected = 2.0 * ((z / 2).softmax(-1) - (z.mean(0) / 2).softmax(-1)) / 12
        torch.testing.assert_close(z.grad - ce, expected.detach(), rtol=1e-4, atol=1e-6)


class TestTemporalSeparation:
    def test_formula(self, z, t):
        entropy = mean(-sum(p * math.log(p) for p in softmax(row, 2.0)) for step in z.tolist() for row in step)
        expected = 0.6 * step_ce(z) + 0.4 * step_kl(t, z, 2.0) - 0.1 * entropy
        loss = TemporalSeparation(alpha=0.4, gamma=0.1, tau=2.0)
        assert loss([z], [t], samples(*LABELS)).item() == pytest.approx(expected, **approx)


class TestETC:
    def test_formula(self, z):
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        expected = mean(batch_kl(z[j], z[i], 4.0) for i, j in pairs)
        assert ETC()([z], []).item() == pytest.approx(expected, **approx)

    def test_released_code(self):
        """The authors' ETC (braincog/base/utils/criterions.py, commit dc184e3), run apart from this."""
        assert ETC()([FIXED['z']], []).item() == pytest.approx(1.1447628851157334, rel=1e-5)

    def test_teaching_steps_are_stopped(self, z):
        """The gradient of step i is the mean over the others of tau * (p_i - p_j), over T * B."""
        z.requires_grad_()
        ETC(tau=2.0)([z], []).backward()
        p = (z / 2).softmax(-1).detach()
        expected = torch.stack([2.0 * sum(p[i] - p[j] for j in range(4) if j != i) / (12 * 3) for i in range(4)])
        torch.testing.assert_close(z.grad, expected, rtol=1e-4, atol=1e-6)


class TestTKS:
    @staticmethod
    def loss(epoch, **kwargs):
        loss = TKS(**kwargs)
        loss.progress = Progress(epoch=epoch, max_epochs=100)
        return loss

    @pytest.mark.parametrize('epoch, a', [(0, 1.0), (50, 0.65), (100, 0.3)])
    @pytest.mark.parametrize('released', [True, False])
    def test_formula(self, epoch, a, released):
        z, targets = FIXED['z'], [one_hot(k, 5) for k in (0, 3, 0, 1)]
        right = z[1:, 0], z[2:, 1], z[:, 2]
        q = torch.stack([x.sum(0) if released else x.mean(0) for x in right] + [torch.zeros(5)]).tolist()
        ce = mean(soft_ce(y, row) for y, row in zip(targets, z.mean(0).tolist()))
        soft = mean(soft_ce(softmax(label, 3.0), row) for step in z.tolist() for label, row in zip(q, step))
        value = self.loss(epoch, **({} if released else dict(released=False)))([z], [], FIXED['y']).item()
        assert value == pytest.approx(a * ce + (1 - a) * soft * (9 if released else 1), **approx)

    def test_released_code(self):
        """The authors' loss (RCNN.py and train_main.py, commit 52401db) in epoch 30 of 100, run apart from this."""
        value = self.loss(30)([FIXED['z']], [], FIXED['y'])
        assert value.item() == pytest.approx(3.752866147173108, rel=1e-5)

    def test_right_steps_are_stopped_unless_released(self):
        """The gradient of a soft label's cross-entropy alone: (p_t - q) / (T * B)."""
        z = FIXED['z'].clone().requires_grad_()
        self.loss(100, alpha=1.0, released=False)([z], [], FIXED['y']).backward()
        q = torch.stack([z[1:, 0].mean(0), z[2, 1], z[:, 2].mean(0), torch.zeros(5)])
        expected = (z.softmax(-1) - (q / 3).softmax(-1)) / 12
        torch.testing.assert_close(z.grad, expected.detach(), rtol=1e-4, atol=1e-6)
        # released: through the label, too, whose image 1 has one right step
        z.grad = None
        self.loss(100, alpha=1.0)([z], [], FIXED['y']).backward()
        row = z.detach()[:, 1].requires_grad_()
        label = (row[2] / 3).softmax(-1)
        (-9 * (label * row.log_softmax(-1)).sum(-1).mean() / 4).backward()
        torch.testing.assert_close(z.grad[:, 1], row.grad, rtol=1e-4, atol=1e-6)

    def test_epochs_are_needed(self, z):
        for progress in (None, Progress(epoch=3)):
            loss = TKS()
            loss.progress = progress
            with pytest.raises(ValueError, match='TKS needs the number of epochs'):
                loss([z], [], samples(*LABELS))
        assert TKS.needs_progress


class TestStrongWeak:
    def test_formula(self, z):
        """One strong and one weak step for the whole batch."""
        confidence = [mean(max(softmax(row)) for row in step) for step in z.tolist()]
        strong, weak = (z[confidence.index(pick(confidence))] for pick in (max, min))
        assert StrongWeak()([z], []).item() == pytest.approx(batch_kl(strong, weak, 2.0), **approx)
        value = StrongWeak(reverse=True, tau=3.0)([z], []).item()
        assert value == pytest.approx(batch_kl(weak, strong, 3.0), **approx)

    def test_formula_per_image(self, z):
        strong, weak = [], []
        for b in range(3):
            steps = sorted(z[:, b].tolist(), key=lambda row: max(softmax(row)))
            weak.append(steps[0])
            strong.append(steps[-1])
        expected = mean(kl(a, b, 2.0) for a, b in zip(strong, weak))
        value = StrongWeak(per_image=True)([z], []).item()
        assert value == pytest.approx(expected, **approx)
        assert value != pytest.approx(StrongWeak()([z], []).item(), rel=1e-3)

    @pytest.mark.parametrize('kwargs', [dict(), dict(reverse=True), dict(per_image=True)])
    def test_both_steps_learn(self, kwargs):
        confidence = torch.tensor([0.5, 0.1, 3.0, 1.0]).view(4, 1, 1)
        z = (confidence * torch.tensor([1.0, -1.0, 0.5])).repeat(1, 2, 1).requires_grad_()
        StrongWeak(**kwargs)([z], []).backward()
        assert [step.any().item() for step in z.grad] == [False, True, True, False]


class TestSeAl:
    def test_formula(self, z, t):
        steps, teacher = z.tolist(), t.tolist()
        aligned = []
        for step in steps:
            for row, answer, y in zip(step, teacher, LABELS):
                row, answer, named = list(row), list(answer), max(range(5), key=row.__getitem__)
                if named != y:
                    row[named] = row[y]
                    answer[named] = answer[y] = min(answer[named], answer[y])
                aligned.append(kl(answer, row, 3.0))
        others = []
        for b in range(3):
            rows = [step[b] for step in steps]
            entropies = [-sum(p * math.log(p) for p in softmax(row)) for row in rows]
            for i, row in enumerate(rows):
                rest = [j for j in range(4) if j != i]
                cosines = [
                    sum(u * v for u, v in zip(row, rows[j])) / math.hypot(*row) / math.hypot(*rows[j]) for j in rest
                ]
                weights = softmax([(1 - entropies[j] / math.log(5)) * c for j, c in zip(rest, cosines)])
                guide = [sum(w * rows[j][k] for w, j in zip(weights, rest)) for k in range(5)]
                others.append(kl(guide, row, 3.0))
        expected = step_ce(z) + 0.6 * mean(aligned) + 0.15 * mean(others)
        assert SeAl()([z], [t], samples(*LABELS)).item() == pytest.approx(expected, **approx)

    def test_released_code(self):
        """cal_loss, align_teacher_student_logits, kd_loss and time_step_kd_loss of the authors (model/layer.py, commit
        b30ead6), summed as in experiment/cifar/main.py with alpha 0.6 and beta 0.15, run apart from this.
        """
        value = SeAl()([FIXED['z']], [FIXED['t']], FIXED['y'])
        assert value.item() == pytest.approx(1.7412872608662684, rel=1e-5)

    def test_one_step(self, z, t):
        """Nothing to learn from other steps."""
        one, labels = z[:1], samples(*LABELS)
        assert SeAl()([one], [t], labels) == SeAl(beta=0.0)([one], [t], labels)


@pytest.mark.parametrize('loss', [ETC, StrongWeak])
def test_comparing_needs_two_steps(loss):
    with pytest.raises(ValueError, match=f'{loss.__name__} compares time steps, and T=1'):
        loss()([maps(1, 3, 5)], [])
