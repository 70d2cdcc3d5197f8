"""The stand-in for mmcv's compiled ops: against plain formulas, and against a compiled mmcv where there is one.

``test_compiled_mmcv`` repeats this file with the mmcv wheel named by MMSNN_MMCV_WHEEL, or found in a folder
``shared/wheels`` beside the repository.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import mmengine.utils.dl_utils
import pytest
import torch
import torch.nn.functional as F

from mmsnn import compat, mmcv_ops

STANDIN = mmcv_ops.install()

from mmcv import ops  # noqa: E402 (importable only now)

REPO = Path(__file__).parents[1]
compiled = pytest.mark.skipif(STANDIN, reason='mmcv is not compiled; see test_compiled_mmcv')
standin = pytest.mark.skipif(not STANDIN, reason='mmcv is compiled')


def boxes_and_scores(n=60, side=20, seed=0):
    """Overlapping boxes at whole coordinates: many IoUs are equal, and many are the threshold itself."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, side, (n, 2), generator=g).float()
    size = torch.randint(1, side // 2, (n, 2), generator=g).float()
    return torch.cat([corner, corner + size], 1), torch.rand(n, generator=g)


def maps_and_rois(seed=0, dtype=torch.float32):
    """Maps ``[2, 3, 9, 11]`` and rois on a stride of 4, some past the border, one without area."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(12, 2, generator=g) * 40 - 6
    size = torch.rand(12, 2, generator=g) * 20
    size[0] = 0
    index = torch.randint(0, 2, (12, 1), generator=g).float()
    return torch.randn(2, 3, 9, 11, generator=g).to(dtype), torch.cat([index, corner, corner + size], 1).to(dtype)


def logits_and_targets(n=40, classes=5, seed=0, dtype=torch.float32):
    """Logits of both signs and targets; ``classes`` itself is background."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=g).to(dtype) * 3, torch.randint(0, classes + 1, (n,), generator=g)


def iou(a, b, offset):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1))
    inter = max(width, 0) * max(height, 0)
    area = sum((x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b))
    return inter / (area - inter)


class TestNMS:
    @pytest.mark.parametrize('offset', [0, 1])
    @pytest.mark.parametrize('threshold', [0.3, 0.5, 0.7])
    def test_equals_the_definition(self, offset, threshold):
        boxes, scores = boxes_and_scores()
        kept = []
        for i in scores.argsort(descending=True).tolist():
            if all(iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
                kept.append(i)
        dets, index = ops.nms(boxes, scores, threshold, offset=offset)
        assert index.tolist() == kept
        assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])

    def test_an_iou_equal_to_the_threshold_is_kept(self):
        # 3 of 5 cells; as a double, 0.6 lies below the float32 quotient.
        boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])
        assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2

    def test_batched_keeps_classes_apart(self):
        boxes, scores = boxes_and_scores()
        classes = torch.arange(len(boxes)) % 3
        dets, index = ops.batched_nms(boxes, scores, classes, dict(type='nms', iou_threshold=0.5))
        alone = [
            torch.where(classes == c)[0][ops.nms(boxes[classes == c], scores[classes == c], 0.5)[1]] for c in range(3)
        ]
        assert sorted(index.tolist()) == sorted(torch.cat(alone).tolist())
        assert torch.equal(dets[:, 4], scores[index])

    def test_empty(self):
        assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
        assert ops.soft_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)

    def test_soft_hand_worked(self):
        # IoU of the first two: 1/2. The third is apart.
        boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [5, 5, 6, 6]])
        scores = torch.tensor([0.9, 0.8, 0.5])
        dets, index = ops.soft_nms(boxes, scores, iou_threshold=0.3, method='linear')
        assert index.tolist() == [0, 2, 1]
        torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.4]))
        dets, index = ops.soft_nms(boxes, scores, iou_threshold=0.3, sigma=0.5, method='gaussian')
        torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.8 * torch.e**-0.5]))
        assert ops.soft_nms(boxes, scores, iou_threshold=0.3, method='naive')[1].tolist() == [0, 2]

    def test_match_groups_every_box_once(self):
        boxes, scores = boxes_and_scores()
        groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)
        assert sorted(torch.cat(groups).tolist()) == list(range(len(boxes)))
        for head, *rest in (group.tolist() for group in groups):
            assert all(iou(boxes[head].tolist(), boxes[i].tolist(), 0) >= 0.5 for i in rest)


class TestRoIAlign:
    @pytest.mark.parametrize('aligned', [True, False])
    def test_one_bin_is_the_mean_of_its_samples(self, aligned):
        # On a plane, bilinear samples are the plane's values and their mean is the value at the centre.
        y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing='ij')
        rois = torch.tensor([[0, 8.0, 8.0, 24.0, 20.0]])
        got = ops.roi_align((2 * x + 5 * y)[None, None], rois, (1, 1), 0.25, 2, 'avg', aligned)
        shift = 0.5 if aligned else 0.0
        assert got.item() == pytest.approx(2 * (4 - shift) + 5 * (3.5 - shift))

    @pytest.mark.parametrize('ratio', [0, 2])
    def test_gradient(self, ratio):
        maps, rois = maps_and_rois(dtype=torch.float64)
        maps.requires_grad_()
        assert torch.autograd.gradcheck(lambda m: ops.roi_align(m, rois[:4], (2, 3), 0.25, ratio, 'avg', True), maps)

    @standin
    def test_half_precision_is_sampled_in_float32(self):
        maps, rois = maps_and_rois()
        for dtype in (torch.float16, torch.bfloat16):
            stored = maps.to(dtype).requires_grad_()
            got = ops.roi_align(stored, rois, 2, 0.25, 0, 'avg', True)
            assert torch.equal(got, ops.roi_align(stored.detach().float(), rois, 2, 0.25, 0, 'avg', True).to(dtype))
            got.sum().backward()
            assert stored.grad.dtype == dtype

    @standin
    def test_maximum_is_refused(self):
        maps, rois = maps_and_rois()
        with pytest.raises(RuntimeError, match='max.*compiled mmcv'):
            ops.roi_align(maps, rois, 2, 0.25, 0, 'max', True)


@standin
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
        mmcv_ops.sigmoid_focal_loss_forward(logits, target, weight, weighted, gamma=gamma, alpha=0.3)
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
        mmcv_ops.softmax_focal_loss_forward(logits.softmax(1), target - 5, weight, ignored, gamma=gamma, alpha=0.3)
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


@standin
class TestModule:
    def test_looks_like_a_module(self):
        assert mmengine.utils.dl_utils.mmcv_full_available()
        assert 'stand-in' in ops.get_compiler_version()
        assert mmcv_ops.install()

    def test_other_ops_say_what_is_needed(self):
        with pytest.raises(RuntimeError, match='deform_conv_forward needs a compiled mmcv'):
            ops.deform_conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 18, 2, 2), torch.zeros(1, 1, 3, 3))

    def test_refused_by_the_environment(self, monkeypatch):
        monkeypatch.delitem(sys.modules, mmcv_ops.NAME)
        monkeypatch.setenv(mmcv_ops.SWITCH, '0')
        assert not mmcv_ops.install()
        with pytest.raises(ModuleNotFoundError, match='mmcv._ext'):
            __import__(mmcv_ops.NAME)

    def test_says_so_once(self, monkeypatch):
        said = []
        monkeypatch.setattr(mmcv_ops, 'print_log', lambda text, logger: said.append(text))
        mmcv_ops.announce.cache_clear()
        for _ in range(2):
            ops.nms(*boxes_and_scores(), 0.5)
        assert len(said) == 1 and 'nms' in said[0] and mmcv_ops.SWITCH in said[0]

    def test_torchvision_that_does_not_fit(self, monkeypatch):
        # What Python does for a module that is None here is to raise ImportError.
        monkeypatch.setitem(sys.modules, 'torchvision.ops', None)
        mmcv_ops.torchvision_ops.cache_clear()
        with pytest.raises(ImportError, match='do not work together.*pip install'):
            ops.nms(*boxes_and_scores(), 0.5)

    @pytest.mark.parametrize('version, warns', [('0.26.0+cu130', True), ('0.26.0+cpu', False), ('0.26.0', False)])
    def test_cpu_torch_beside_cuda_torchvision(self, version, warns, monkeypatch, recwarn):
        monkeypatch.setattr(torch.version, 'cuda', None)
        monkeypatch.setattr(compat, 'torchvision_version', lambda: version)
        compat.warn_of_misfit_torchvision()
        assert [str(w.message) for w in recwarn] == ([compat.torchvision_hint()] if warns else [])

    def test_models_import(self):
        import mmdet.models
        import mmseg.models

        assert mmdet.models.RetinaNet and mmseg.models.FCNHead


@compiled
class TestAgainstCompiled:
    """Our functions beside mmcv's own, in one process; ``ops`` is compiled here."""

    def test_left_alone(self):
        assert not isinstance(sys.modules[mmcv_ops.NAME], mmcv_ops.StandIn)
        assert sys.modules[mmcv_ops.NAME].__file__.endswith('.so')

    @pytest.mark.parametrize('offset', [0, 1])
    def test_nms(self, offset):
        for seed in range(20):
            boxes, scores = boxes_and_scores(seed=seed)
            for threshold in (0.3, 0.5, 0.6, 0.7):
                expected = ops.nms(boxes, scores, threshold, offset=offset)[1]
                assert torch.equal(mmcv_ops.nms(boxes, scores, threshold, offset), expected)

    @pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
    def test_soft_nms(self, method):
        for seed in range(5):
            boxes, scores = boxes_and_scores(seed=seed)
            expected, index = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset=1)
            dets = torch.empty(len(boxes), 5)
            code = ['naive', 'linear', 'gaussian'].index(method)
            assert torch.equal(mmcv_ops.softnms(boxes, scores, dets, 0.3, 0.5, 0.05, code, 1), index)
            torch.testing.assert_close(dets[: len(index)], expected)

    def test_nms_match(self):
        dets = torch.cat([x.view(60, -1) for x in boxes_and_scores()], 1)
        assert mmcv_ops.nms_match(dets, 0.5) == [group.tolist() for group in ops.nms_match(dets, 0.5)]

    @pytest.mark.parametrize('aligned', [True, False])
    @pytest.mark.parametrize('ratio', [0, 2])
    def test_roi_align(self, ratio, aligned):
        maps, rois = maps_and_rois()
        maps.requires_grad_()
        expected = ops.roi_align(maps, rois, (3, 2), 0.25, ratio, 'avg', aligned)
        cotangent = torch.randn_like(expected)
        expected.backward(cotangent)
        settings = dict(
            aligned_height=3, aligned_width=2, spatial_scale=0.25, sampling_ratio=ratio, pool_mode=1, aligned=aligned
        )
        got, grad, none = torch.empty_like(expected), torch.empty_like(maps), maps.new_empty(0)
        mmcv_ops.roi_align_forward(maps.detach(), rois, got, none, none, **settings)
        mmcv_ops.roi_align_backward(cotangent, rois, none, none, grad, **settings)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(grad, maps.grad)

    @pytest.mark.skipif(
        not torch.cuda.is_available() or ops.get_compiling_cuda_version() == 'not available',
        reason='mmcv compiles focal losses for the GPU alone',
    )
    @pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
    def test_focal_loss(self, kind):
        logits, target = (x.cuda() for x in logits_and_targets())
        target, weight = target % 5, torch.rand(5, device='cuda')
        logits.requires_grad_()
        ours = mmcv_ops.sigmoid_focal if kind == 'sigmoid' else mmcv_ops.softmax_focal
        expected = getattr(ops, f'{kind}_focal_loss')(logits, target, 2.0, 0.25, weight, 'sum')
        torch.testing.assert_close(ours(logits, target, weight, 2.0, 0.25).sum(), expected)
        (grad,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(mmcv_ops.gradient(ours, logits, target, weight, 2.0, 0.25), grad)


@standin
def test_compiled_mmcv(tmp_path):
    """Repeat this file in a process that has a compiled mmcv."""
    tag = f'cp{sys.version_info.major}{sys.version_info.minor}'
    named = os.environ.get('MMSNN_MMCV_WHEEL')
    wheels = [Path(named)] if named else sorted((REPO.parent / 'shared' / 'wheels').glob(f'*mmcv-*{tag}*.whl'))
    if not wheels:
        pytest.skip(f'no compiled mmcv wheel for {tag}; name one in MMSNN_MMCV_WHEEL')
    zipfile.ZipFile(wheels[0]).extractall(tmp_path)
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__],
        # Without the stand-in, a wheel that is not found fails the run instead of skipping its comparisons.
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(REPO)]), mmcv_ops.SWITCH: '0'},
        capture_output=True,
        text=True,
    )
    if 'undefined symbol' in result.stdout:
        pytest.skip(f'{wheels[0].name} was built for another torch')
    assert result.returncode == 0, result.stdout
