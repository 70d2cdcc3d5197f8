"""The memory that a training step needs, measured on a GPU and estimated on a CPU."""

import resource
import sys

import torch
from torch import nn

from .findings import Finding, error, note, number


class Kept:
    """Context that counts the bytes that a forward pass stores for its backward pass, without weights."""

    def __init__(self, model: nn.Module):
        self.known = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        self.bytes = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self):
        self.hooks.__enter__()
        return self

    def __exit__(self, *args):
        self.hooks.__exit__(*args)


def too_large(size: int) -> Finding:
    """The error that a step does not fit into the GPU's memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    return error(
        'train_dataloader.batch_size',
        f'{size} images do not fit into the {_size(total)} of {torch.cuda.get_device_name()}: lower it, or train '
        'with --amp, packed_spikes=True or with_cp=True of the backbone, or fewer time steps',
    )


def memory(device: str, model, wrapper, kept: Kept, gradients: int, used: int, size: int) -> Finding:
    """A note on the memory of a training step: measured on a GPU, or estimated from fewer images on a CPU.

    Args:
        device: ``cuda`` or another device.
        model, wrapper: the model and the optimizer wrapper of the step.
        kept: the bytes that the model stored for its backward pass.
        gradients: bytes of the gradients.
        used, size: numbers of images in the step that was run and in a step of the training.
    """
    key = 'train_dataloader.batch_size'
    if device == 'cuda':
        peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
        return note(key, f'measured: {_size(peak)} of {_size(total)} for a step with {number(size, "image")}')
    weights = sum(
        p.nbytes for m in (model, *(t.model for t in teachers_of(model))) for p in (*m.parameters(), *m.buffers())
    )
    optimizer = getattr(wrapper, 'optimizer', None)
    states = [v for state in optimizer.state.values() for v in state.values()] if optimizer else []
    states = sum(v.nbytes for v in states if isinstance(v, torch.Tensor))
    activations = kept.bytes * size // used
    # The unit is bytes on macOS and KiB elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    total = weights + gradients + states + activations
    return note(
        key,
        f'estimated: {_size(total)} for a step with {number(size, "image")}: weights {_size(weights)}, gradients '
        f'{_size(gradients)}, optimizer {_size(states)}, and {_size(activations)} that layers keep for the '
        f'backward pass (measured for {number(used, "image")}); workspace of convolutions is not included. Measured: '
        f'the peak of this process, including Python and libraries, was {_size(peak)}',
    )


def teachers_of(model: nn.Module) -> list:
    """The teachers of a Distiller; an empty list for other models."""
    teachers = model.__dict__.get('teachers')
    return list(teachers.values()) if isinstance(teachers, dict) else []


def _size(count: int) -> str:
    return f'{count / 2**20:.0f} MiB' if count < 2**30 else f'{count / 2**30:.1f} GiB'
