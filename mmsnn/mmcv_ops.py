"""A stand-in for mmcv's compiled module ``mmcv._ext``, for the ops that detectors and segmentors use.

mmcv installed the ordinary way comes without its compiled ops, and ``import mmdet.models`` then fails. Where they are
absent, ``install`` puts a module of that name in place: NMS and RoIAlign by way of torchvision (CPU and GPU), focal
losses in PyTorch. Every other op raises ``RuntimeError``. Compiled ops that are present are left alone.

The functions have the signatures of mmcv's C++ ones, which write their results into tensors they are given. Shapes:
boxes ``[N, 4]`` as x1, y1, x2, y2; rois ``[R, 5]`` as image index and box; feature maps ``[B, C, H, W]``.
"""

import functools
import importlib.machinery
import importlib.util
import os
import sys
import types

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from .compat import torchvision_hint

NAME = 'mmcv._ext'
SWITCH = 'MMSNN_MMCV_STANDIN'


class StandIn(types.ModuleType):
    """The module put in the place of ``mmcv._ext``."""

    def __getattr__(self, name: str):
        # mmcv asks for all of its ops by hasattr when it is imported, so an op we lack may fail only when called.
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(
                f'{name} needs a compiled mmcv: mmcv is installed without its compiled ops, and this one is not among '
                f'those mmsnn replaces ({supplied()}). Build mmcv from source with torch installed '
                "and pip's --no-build-isolation."
            )

        return missing


def install() -> bool:
    """Make ``mmcv.ops`` importable where mmcv has no compiled ops; return whether the stand-in is in place.

    Must run before ``mmcv.ops`` is imported. Does nothing where mmcv is absent or compiled, or where the environment
    variable ``MMSNN_MMCV_STANDIN`` is 0: mmcv's own ImportError then says what is missing.
    """
    if isinstance(sys.modules.get(NAME), StandIn):
        return True
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv is None or os.environ.get(SWITCH) == '0' or is_compiled(mmcv):
        return False
    module = StandIn(NAME, __doc__)
    # importlib.util.find_spec, by which mmengine looks for the compiled ops, refuses modules without one.
    module.__spec__ = importlib.machinery.ModuleSpec(NAME, loader=None, origin=__name__)
    module.get_compiler_version = module.get_compiling_cuda_version = lambda: 'not compiled (stand-in of mmsnn)'
    for name, op in OPS.items():
        setattr(module, name, announced(op))
    sys.modules[NAME] = module
    return True


def is_compiled(mmcv: importlib.machinery.ModuleSpec) -> bool:
    """Whether the mmcv found at ``mmcv`` has its compiled ops. Imports nothing: that would cost every user seconds."""
    return importlib.machinery.PathFinder.find_spec(NAME, mmcv.submodule_search_locations) is not None


def announced(op):
    """``op``, which says once per process that it is not mmcv's: late enough to stand in a training's log file."""

    @functools.wraps(op)
    def call(*args, **kwargs):
        announce()
        return op(*args, **kwargs)

    return call


@functools.cache
def announce():
    print_log(
        f'mmcv is installed without its compiled ops: mmsnn supplies {supplied()} ({SWITCH}=0 refuses them).',
        logger='current',
    )


def supplied() -> str:
    """The ops there are, by the names mmcv's users know."""
    return ', '.join(sorted({name.removesuffix('_forward').removesuffix('_backward') for name in OPS}))


@functools.cache
def torchvision_ops():
    """``torchvision.ops``, imported late because it is slow and seldom needed.

    Raises:
        ImportError: torchvision does not fit torch.
    """
    try:
        import torchvision.ops
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(torchvision_hint()) from error
    return torchvision.ops


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it comes so: half precision is for storage."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def extended(boxes: Tensor, offset: int) -> Tensor:
    """``boxes`` such that their plain width is ``x2 - x1 + offset``, in the float32 that mmcv computes IoUs in."""
    boxes = boxes.float()
    return torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices ``[K]`` of the boxes kept, best first; one whose IoU with a better one is above the threshold goes."""
    # mmcv compares in float32: an IoU of exactly 0.6 is not above the float32 nearest to 0.6, but is above the double.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision_ops().nms(extended(boxes, offset), scores.float(), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., ICCV 2017); ``method`` 0 is hard, 1 linear, 2 Gaussian.

    Fills the first K rows of ``dets`` ``[N, 5]`` with the boxes kept and their lowered scores, and returns their
    indices ``[K]``.
    """
    box_iou = torchvision_ops().box_iou
    full, scores = extended(boxes, offset), scores.clone()
    left, kept = torch.arange(len(boxes), device=boxes.device), []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = left[left != best]
        iou = box_iou(full[best, None], full[left])[0]
        if method == 2:
            scores[left] *= torch.exp(-(iou**2) / sigma)
        else:
            scores[left] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """NMS on ``dets`` ``[N, 5]`` that returns, for each box kept, its index and those of the boxes it suppressed."""
    box_iou = torchvision_ops().box_iou
    left, groups = dets[:, 4].sort(descending=True, stable=True).indices, []
    while len(left):
        suppressed = box_iou(dets[left[0], None, :4], dets[left, :4])[0] >= iou_threshold
        # A box without area has no IoU with itself.
        suppressed[0] = True
        groups.append(left[suppressed].tolist())
        left = left[~suppressed]
    return groups


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al., ICCV 2017) of ``input`` ``[B, C, H, W]`` into ``output`` ``[R, C, h, w]``.

    Raises:
        RuntimeError: ``pool_mode`` is 0, maximum; torchvision has the average only.
    """
    if pool_mode == 0:
        raise RuntimeError("RoIAlign with pool_mode='max' needs a compiled mmcv; mmsnn replaces 'avg' only.")
    torchvision_ops()
    x = wide(input)
    sampling = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(torch.ops.torchvision.roi_align(x, rois.to(x.dtype), *sampling))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of ``roi_align_forward``: from ``grad_output`` ``[R, C, h, w]`` into ``grad_input`` ``[B, C, H, W]``."""
    torchvision_ops()
    grad = wide(grad_output)
    bins = (spatial_scale, aligned_height, aligned_width)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad, rois.to(grad.dtype), *bins, *grad_input.shape, sampling_ratio, aligned
        )
    )


def sigmoid_focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of each class against the rest, ``[N, C]``, unreduced.

    ``target`` ``[N]`` holds class indices, C for background; ``weight`` is empty or ``[C]``, chosen by the target.
    mmcv's kernel takes logarithms of rounded probabilities and gives 87 for a wrong logit of 20; this gives 20.
    """
    logits = wide(logits)
    # Of the two classes of each binary problem, the logit of the right one.
    positive = target[:, None] == torch.arange(logits.size(1), device=target.device)
    right = torch.where(positive, logits, -logits)
    balance = torch.where(positive, alpha, 1 - alpha)
    # (1 - p)^gamma by its logarithm: finite slopes at p = 1 too.
    loss = -balance * torch.exp(gamma * F.logsigmoid(-right)) * F.logsigmoid(right)
    return loss * weight.index_select(0, target)[:, None] if weight.numel() else loss


def softmax_focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of a softmax, ``[N]``, unreduced, from ``logits`` ``[N, C]``; a negative target counts nothing."""
    logits = wide(logits)
    label = target.clamp(min=0)
    log_p = F.log_softmax(logits, dim=1).gather(1, label[:, None])[:, 0]
    loss = -alpha * (1 - log_p.exp()) ** gamma * log_p
    loss = loss * weight[label] if weight.numel() else loss
    return loss * (target >= 0)


def gradient(loss, logits: Tensor, *args) -> Tensor:
    """Gradient of the sum of ``loss(logits, *args)`` with respect to ``logits``."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(loss(logits, *args).sum(), logits)[0]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """``sigmoid_focal`` into ``output`` ``[N, C]``."""
    output.copy_(sigmoid_focal(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of ``sigmoid_focal`` into ``grad_input`` ``[N, C]``."""
    grad_input.copy_(gradient(sigmoid_focal, input, target, weight, gamma, alpha))


def logits_of(softmax: Tensor) -> Tensor:
    """Logits that have this ``softmax`` ``[N, C]``: mmcv hands over probabilities only."""
    return wide(softmax).clamp_min(torch.finfo(torch.float32).tiny).log()


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """``softmax_focal`` into ``output`` ``[N]``, from probabilities ``[N, C]``."""
    output.copy_(softmax_focal(logits_of(softmax), target, weight, gamma, alpha))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of ``softmax_focal`` by the logits into ``grad_input`` ``[N, C]``; ``buff``, mmcv's scratch, stays."""
    grad_input.copy_(gradient(softmax_focal, logits_of(softmax), target, weight, gamma, alpha))


OPS = {
    op.__name__: op
    for op in (
        nms,
        nms_match,
        roi_align_backward,
        roi_align_forward,
        sigmoid_focal_loss_backward,
        sigmoid_focal_loss_forward,
        softmax_focal_loss_backward,
        softmax_focal_loss_forward,
        softnms,
    )
}
