"""Tracing the activations of a backbone by a forward of blank images."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmsnn.layers import blank_image, evaluating

FUNCTIONS = {
    torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu6, F.leaky_relu, F.prelu, F.elu, F.gelu, F.silu,
    F.hardswish, F.mish,
}  # fmt: skip
# Heights and widths of images to try, after those that the backbone names itself.
SIZES = (64, 224, 32, 256, 384, 512)


@dataclass
class Trace:
    """The result of `trace`.

    Attributes:
        size: height and width of the images.
        uses: number of calls of each activation in one forward.
        off_path: activations whose input does not have images in its first dimension, e.g. in an MLP for positions.
        changed_inputs, changed_outputs: activations whose input or output is changed in place afterwards.
        functions: number of calls of activation functions, by name.
        fixed: shapes of outputs that do not depend on the number of images, such as weights.
    """

    size: int = SIZES[0]
    uses: Counter = field(default_factory=Counter)
    off_path: set[nn.Module] = field(default_factory=set)
    changed_inputs: set[nn.Module] = field(default_factory=set)
    changed_outputs: set[nn.Module] = field(default_factory=set)
    functions: Counter = field(default_factory=Counter)
    fixed: set[tuple] = field(default_factory=set)


def trace(backbone: nn.Module, kinds: tuple[type, ...], cfg: dict) -> Trace:
    """Run one and then two blank images through ``backbone`` and record the calls of its modules of ``kinds``.

    Args:
        backbone: any backbone; it runs in eval mode without gradients, and is left unchanged.
        kinds: classes of the activation modules.
        cfg: config of the backbone, which may name the size of images.

    Raises:
        RuntimeError: the backbone does not run with any of the sizes.
    """
    result, errors = Trace(), []
    for size in _sizes(backbone, cfg):
        one, functions = [], _Functions()
        try:
            with _watching(backbone, kinds, one, functions), functions:
                outs = run_blank(backbone, size)
            break
        # A backbone may raise anything for a size that it does not accept.
        except Exception as error:
            errors.append(f'{type(error).__name__}: {error}')
    else:
        raise RuntimeError(f'{type(backbone).__name__} runs with no blank image; the first error: {errors[0]}')
    result.size, result.functions = size, functions.counts
    result.uses.update(call[0] for call in one)
    with _watching(backbone, kinds, two := [], _Functions()):
        outs_of_two = run_blank(backbone, size, 2)
    pairs = zip(tensors_in(outs), tensors_in(outs_of_two))
    result.fixed = {tuple(a.shape) for a, b in pairs if a.shape == b.shape}
    for (module, x, version_in, out, version_out), (_, y, *_) in zip(one, two):
        if y.dim() == 0 or y.shape[0] != 2 * x.shape[0]:
            result.off_path.add(module)
        if x._version != version_in:
            result.changed_inputs.add(module)
        if out._version != version_out:
            result.changed_outputs.add(module)
    return result


def run_blank(backbone: nn.Module, size: int, images: int = 1):
    """The outputs for blank images of ``size``; random number generators and modes are restored."""
    with evaluating(backbone), torch.random.fork_rng(devices=[]):
        return backbone(blank_image(backbone, size).repeat(images, 1, 1, 1))


def tensors_in(out) -> list[Tensor]:
    """All tensors in a possibly nested output."""
    if isinstance(out, Tensor):
        return [out]
    values = out.values() if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


def _sizes(backbone: nn.Module, cfg: dict) -> list[int]:
    """Sizes of images to try, beginning with those that the backbone names."""
    named = [cfg.get('img_size'), getattr(backbone, 'img_size', None), getattr(backbone, 'init_resolution', None)]
    named = [n[0] if isinstance(n, (tuple, list)) else n for n in named]
    return list(dict.fromkeys([n for n in named if isinstance(n, int)] + list(SIZES)))


@contextmanager
def _watching(backbone: nn.Module, kinds: tuple[type, ...], calls: list, counter: '_Functions') -> Iterator[None]:
    def before(*_):
        counter.inside += 1

    def after(module, inputs, out):
        counter.inside -= 1
        if isinstance(module, kinds):
            calls.append((module, inputs[0], inputs[0]._version, out, out._version))

    handles = []
    # Functions that an activation module calls are not counted, because the module is replaced as a whole.
    for module in backbone.modules():
        if isinstance(module, kinds):
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Functions(TorchFunctionMode):
    """Counts calls of activation functions outside of activation modules."""

    def __init__(self):
        super().__init__()
        self.inside, self.counts = 0, Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in FUNCTIONS and not self.inside:
            self.counts[function.__name__.rstrip('_')] += 1
        return function(*args, **(kwargs or {}))
