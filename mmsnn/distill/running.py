"""A forward of a task model that runs only as far as its taps need."""

import inspect
import re

from torch import Tensor, nn

from .taps import FEATURES, Tap


class HeadError(ValueError):
    """A tapped part of a task model needs more inputs than feature maps.

    Attributes:
        part: name of the part.
    """

    def __init__(self, part: str, message: str):
        super().__init__(message)
        self.part = part


def run(model: nn.Module, images: Tensor, taps, role: str) -> None:
    """Compute the feature maps, and run those heads that contain a tap.

    The student's heads are put into training mode and left in it, because some heads return more in training than in
    testing; the modules inside of them keep their mode. A head that then wants what its network gives in training alone
    stays in evaluation where the network is. A teacher's dense detection head is in training mode for this call, too:
    FCOS and others answer boxes in another unit then.

    Raises:
        HeadError: the model has no ``extract_feat``, or a tap lies in a part that needs more than feature maps, such
            as queries or proposals.
    """
    if not hasattr(model, 'extract_feat'):
        raise HeadError(
            taps[0].part,
            f'{type(model).__name__} (the {role}) has no extract_feat, which the Distiller calls to reach its taps',
        )
    feats = model.extract_feat(images)
    for part in dict.fromkeys(tap.part for tap in taps):
        if part in FEATURES:
            continue
        heads, out = getattr(model, part), feats
        if not isinstance(heads, nn.ModuleList):
            _call(heads, part, role, feats)
            continue
        for head in heads[: 1 + max(_place(tap, len(heads)) for tap in taps if tap.part == part)]:
            # Each head of a cascade is given the output of the one before.
            out = _call(head, part, role, feats) if len(_needs(head)) < 2 else _call(head, part, role, feats, out)


def _place(tap: Tap, length: int) -> int:
    second = tap.module.split('.')[1:2]
    number = int(second[0]) if second and re.fullmatch(r'-?\d+', second[0]) else -1
    return number % length


def _needs(head: nn.Module) -> list[str]:
    """The names of the arguments without a default of a module's forward."""
    parameters = inspect.signature(head.forward).parameters.values()
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def _call(head: nn.Module, part: str, role: str, *args):
    needs, own = _needs(head), head.training
    # mmdet's dense heads; those of mmseg add auxiliary answers in training, which a teacher need not give.
    dense = hasattr(head, 'loss_and_predict')
    head.training = own or role == 'student' or dense
    try:
        if len(needs) != len(args):
            reason = None
        elif own == head.training:
            return head(*args)
        else:
            try:
                return head(*args)
            # DDRNet's head takes two maps in training, and its backbone gives one in evaluation.
            except (IndexError, TypeError, ValueError):
                head.training = own
                return head(*args)
    except TypeError as error:
        reason = error
    finally:
        if role != 'student':
            head.training = own
    raise HeadError(
        part,
        f'{part} ({type(head).__name__}) of the {role} does not run on feature maps alone: it takes '
        f'{", ".join(needs)}. Queries, points and proposals of boxes are those of each network and have no counterpart '
        'in the other, so its answers cannot be compared. Terms on features can: FeatureMSE, PKD or AttentionMSE with '
        "taps in 'backbone' or 'neck'; of two-stage detectors also DenseResponse on the RPN (head='rpn_head'), of "
        'PointRend PixelKL on its first head (decode_head.0)',
    ) from reason
