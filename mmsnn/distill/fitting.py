"""Whether the tensors of a term's taps can be compared; asked once, with a blank image, before the training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .losses.base import REMEDY


def check_maps(term, student: list, teacher: list) -> None:
    """Raise ValueError unless all tensors are maps ``[B, C, H, W]``."""
    for role, tensors in (('student', student), (term.from_teacher, teacher)):
        for i, x in enumerate(tensors):
            if x.dim() != 4:
                raise ValueError(
                    f'{term.key}: {type(term.loss).__name__} compares maps [B, C, H, W], but tensor {i} is '
                    f'{tuple(x.shape)} at the {role} ({term.names(role)}). If a head returns several items, tap the '
                    'one that is a map (decode_head[0]). The tokens of a transformer are not maps: tap a module that '
                    "returns maps (mmpretrain's ViT with out_type='featmap': backbone[0])"
                )


def check_shapes(term, student: list, linked: list, teacher: list, size: int) -> None:
    """Raise ValueError unless the tensors agree after the connectors, batch and time steps aside."""
    behind = 2 if term.loss.time == 'steps' else 1
    for i, (raw, s, t) in enumerate(zip(student, linked, teacher, strict=True)):
        if behind == 2 and t.shape[0] not in (1, s.shape[0]):
            raise ValueError(
                f'{term.key}: {type(term.loss).__name__} compares time steps, but the student has {s.shape[0]} '
                f'({term.names("student")}) and the {term.from_teacher} {t.shape[0]} '
                f'({term.names(term.from_teacher)}): set one T for both, or tap what the teacher answers behind its '
                'readout (head.fc)'
            )
        ours, theirs = tuple(s.shape[behind:]), tuple(t.shape[behind:])
        if ours == theirs:
            continue
        if len(ours) == len(theirs) and ours[1:] == theirs[1:] and (term.loss.answers or _ends_in_head(term)):
            raise ValueError(
                f'{term.key}: {type(term.loss).__name__} compares answers class by class, but the student answers '
                f'{ours[0]} classes ({term.names("student")}) and the {term.from_teacher} {theirs[0]} '
                f'({term.names(term.from_teacher)}). {REMEDY}'
            )
        if ours[1:] == theirs[1:]:
            remedy = 'tap stages of equal width, or set a connector'
        elif len(ours) == len(theirs) == 3:
            remedy = "tap stages of equal stride, or set connector=dict(type='Resize', connector=dict(type='ConvBN'))"
        else:
            remedy = 'tap layers whose outputs have the same dimensions'
        raise ValueError(
            f'{term.key}: for a {size}x{size} image, tensor {i} is {tuple(raw.shape[behind:])} at the student '
            f'({term.names("student")}) and {theirs} at the {term.from_teacher} '
            f'({term.names(term.from_teacher)}): {remedy}'
        )


def _ends_in_head(term) -> bool:
    lasts = [tap.pipe[-1] if tap.pipe else tap.module for tap in (*term.student, *term.teacher)]
    return all(last.split('.')[0] not in ('backbone', 'neck') for last in lasts)


def are_probabilities(term, *sides: list[Tensor]) -> bool:
    """Whether all that should be logits lies between 0 and 1, in the student or in the teacher."""
    found = filter(None, map(term.loss.logits, sides))
    return any(all(x.amin() > 0 and x.amax() < 1 for x in tensors) for tensors in found)


@contextmanager
def lowered(models: dict[str, nn.Module], term) -> Iterator[None]:
    """Context in which the biases of the tapped parts are far below 0, which takes logits there, but no probability."""
    parts = [
        getattr(models[role], tap.part) for role in ('student', term.from_teacher) if role for tap in term.taps(role)
    ]
    biases = {p for part in parts for name, p in part.named_parameters() if name.endswith('bias')}
    before = {p: p.detach().clone() for p in biases}
    try:
        with torch.no_grad():
            for p in biases:
                p.fill_(-10.0)
        yield
    finally:
        with torch.no_grad():
            for p, values in before.items():
                p.copy_(values)
