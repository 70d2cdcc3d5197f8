"""A forward just far enough for the taps of a task model to fire."""

import inspect
import re

from torch import Tensor, nn

from .taps import FEATURES, Tap


class HeadError(ValueError):
    """A tapped part of a task model does not run on feature maps alone.

    Attributes:
        part: its name.
    """

    def __init__(self, part: str, message: str):
        super().__init__(message)
        self.part = part


def run(model: nn.Module, images: Tensor, taps, role: str) -> None:
    """Forward just far enough for the taps to fire: the features, and those heads that hold a tap.

    The student's heads answer as in training, some of them more than in testing; what is inside them stays in the mode
    it is in. Their own mode is left changed.

    Raises:
        HeadError: a tap lies in a part that takes more than feature maps: queries, or proposals.
    """
    if not hasattr(model, 'extract_feat'):
        raise HeadError(
            taps[0].part,
            f'{type(model).__name__} (the {role}) has no extract_feat, by which one batch of images is tapped',
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
            # the heads of a cascade see what the one before has answered
            out = _call(head, part, role, feats) if len(_needs(head)) < 2 else _call(head, part, role, feats, out)


def _place(tap: Tap, length: int) -> int:
    second = tap.module.split('.')[1:2]
    number = int(second[0]) if second and re.fullmatch(r'-?\d+', second[0]) else -1
    return number % length


def _needs(head: nn.Module) -> list[str]:
    """The arguments that a module's forward cannot do without."""
    parameters = inspect.signature(head.forward).parameters.values()
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def _call(head: nn.Module, part: str, role: str, *args):
    needs = _needs(head)
    head.training = head.training or role == 'student'
    try:
        if len(needs) == len(args):
            return head(*args)
        reason = None
    except TypeError as error:
        reason = error
    raise HeadError(
        part,
        f'{part} ({type(head).__name__}) of the {role} does not run on feature maps alone: it takes '
        f'{", ".join(needs)}. Queries, points and proposals of boxes are those of each network and have no counterpart '
        'in the other, so its answers cannot be compared. Terms on features can: FeatureMSE, PKD or AttentionMSE with '
        "taps in 'backbone' or 'neck'; of two-stage detectors also DenseResponse on the RPN (head='rpn_head'), of "
        'PointRend PixelKL on its first head (decode_head.0)',
    ) from reason
