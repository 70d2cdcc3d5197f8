"""What a network on events returns: plain tensors, wherever they are."""

import functools
from collections.abc import MutableMapping
from dataclasses import fields, is_dataclass

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .lazy import Lazy


def numbers_of(out):
    """``out`` with the numbers of lazy tensors, also in containers and dataclasses, which are changed in place."""
    # the general way takes a percent of a small network's time
    if _is_plain(out):
        return out
    out = tree_map_only(Lazy, Lazy.numbers, out)
    for leaf in tree_leaves(out):
        if isinstance(leaf, MutableMapping):
            places = [(leaf.__setitem__, key, value) for key, value in leaf.items()]
        elif isinstance(leaf, list):
            places = [(leaf.__setitem__, i, value) for i, value in enumerate(leaf)]
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            set_field = functools.partial(object.__setattr__, leaf)
            places = [(set_field, field.name, getattr(leaf, field.name, None)) for field in fields(leaf)]
        else:
            continue
        for put, place, value in places:
            new = numbers_of(value)
            if new is not value:
                put(place, new)
    return out


def _is_plain(out) -> bool:
    return type(out) is Tensor or (type(out) in (tuple, list) and all(map(_is_plain, out)))
