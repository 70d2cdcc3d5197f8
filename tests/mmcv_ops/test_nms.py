"""Suppression of boxes: against its definition, and against a compiled mmcv where there is one."""

import pytest
import torch
from mmcv import ops

from mmsnn.mmcv_ops.nms import nms, nms_match, softnms


def boxes_and_scores(n=60, side=20, seed=0):
    """Overlapping boxes at whole coordinates: many IoUs are equal, and many are the threshold itself."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, side, (n, 2), generator=g).float()
    size = torch.randint(1, side // 2, (n, 2), generator=g).float()
    return torch.cat([corner, corner + size], 1), torch.rand(n, generator=g)


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


@pytest.mark.usefixtures('compiled')
class TestAgainstCompiled:
    @pytest.mark.parametrize('offset', [0, 1])
    def test_nms(self, offset):
        for seed in range(20):
            boxes, scores = boxes_and_scores(seed=seed)
            for threshold in (0.3, 0.5, 0.6, 0.7):
                expected = ops.nms(boxes, scores, threshold, offset=offset)[1]
                assert torch.equal(nms(boxes, scores, threshold, offset), expected)

    @pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
    def test_soft_nms(self, method):
        for seed in range(5):
            boxes, scores = boxes_and_scores(seed=seed)
            expected, index = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset=1)
            dets = torch.empty(len(boxes), 5)
            code = ['naive', 'linear', 'gaussian'].index(method)
            assert torch.equal(softnms(boxes, scores, dets, 0.3, 0.5, 0.05, code, 1), index)
            torch.testing.assert_close(dets[: len(index)], expected)

    def test_nms_match(self):
        dets = torch.cat([x.view(60, -1) for x in boxes_and_scores()], 1)
        assert nms_match(dets, 0.5) == [group.tolist() for group in ops.nms_match(dets, 0.5)]
