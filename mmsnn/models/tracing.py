"""What a forward of blank images tells of the activations in a backbone."""

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
# height and width of the images that are tried, behind what the backbone itself names
SIZES = (64, 224, 32, 256, 384, 512)


@dataclass
class Trace:
    """What `trace` saw.

    Attributes:
        size: height and width of the images.
        uses: calls of each activation in one forward.
        off_path: activations whose input has no images in its first dimension, e.g. in an MLP of positions.
        changed_inputs, changed_outputs: activations whose input or output is changed in place afterwards.
        functions: activations called as functions, by name.
        fixed: shapes of outputs that do not grow with the number of images, such as weights.
    """

    size: int = SIZES[0]
    uses: Counter = field(default_factory=Counter)
    off_path: set[nn.Module] = field(default_factory=set)
    changed_inputs: set[nn.Module] = field(default_factory=set)
    changed_outputs: set[nn.Module] = field(default_factory=set)
    functions: Counter = field(default_factory=Counter)
    fixed: set[tuple] = field(default_factory=set)


def trace(backbone: nn.Module, kinds: tuple[type, ...], cfg: dict) -> Trace:
    """Run one and two blank images through ``backbone`` and watch its modules of ``kinds``.

    Args:
        backbone: left as it is, in evaluation and without gradients meanwhile.
        kinds: of activations.
        cfg: the backbone's, which may name a size of image.

    Raises:
        RuntimeError: it runs with no size of image.
    """
    found, errors = Trace(), []
    for size in _sizes(backbone, cfg):
        one, functions = [], _Functions()
        try:
            with _watching(backbone, kinds, one, functions), functions:
                outs = run_blank(backbone, size)
            break
        # whatever a backbone says to a size that it does not take
        except Exception as error:
            errors.append(f'{type(error).__name__}: {error}')
    else:
        raise RuntimeError(f'{type(backbone).__name__} runs with no blank image; the first error: {errors[0]}')
    found.size, found.functions = size, functions.found
    found.uses.update(call[0] for call in one)
    with _watching(backbone, kinds, two := [], _Functions()):
        outs_of_two = run_blank(backbone, size, 2)
    pairs = zip(tensors_in(outs), tensors_in(outs_of_two))
    found.fixed = {tuple(a.shape) for a, b in pairs if a.shape == b.shape}
    for (module, x, version_in, out, version_out), (_, y, *_) in zip(one, two):
        if y.dim() == 0 or y.shape[0] != 2 * x.shape[0]:
            found.off_path.add(module)
        if x._version != version_in:
            found.changed_inputs.add(module)
        if out._version != version_out:
            found.changed_outputs.add(module)
    return found


def run_blank(backbone: nn.Module, size: int, images: int = 1):
    """The outputs for blank images of ``size``; random numbers and modes stay as they are."""
    with evaluating(backbone), torch.random.fork_rng(devices=[]):
        return backbone(blank_image(backbone, size).repeat(images, 1, 1, 1))


def tensors_in(out) -> list[Tensor]:
    """The tensors of an output, nested or not."""
    if isinstance(out, Tensor):
        return [out]
    values = out.values() if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


def _sizes(backbone: nn.Module, cfg: dict) -> list[int]:
    """Sizes of images, those that the backbone names first."""
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
    # those that are no activations call none as functions, or call them for good
    for module in backbone.modules():
        if isinstance(module, kinds):
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Functions(TorchFunctionMode):
    """Counts activation functions that are called outside of activation modules."""

    def __init__(self):
        super().__init__()
        self.inside, self.found = 0, Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in FUNCTIONS and not self.inside:
            self.found[function.__name__.rstrip('_')] += 1
        return function(*args, **(kwargs or {}))
