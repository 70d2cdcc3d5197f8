"""Reading checkpoints of others: never a pickle that may run code."""

from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.runner.checkpoint import get_torch_safe_globals


def load_state(source: str | Path) -> dict:
    """State dict of a checkpoint file, a URL, ``torchvision://NAME`` or ``timm://NAME``, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds more than tensors and plain containers, is damaged, or has no state dict.
    """
    source = str(source)
    if source.startswith('timm://'):
        import timm

        return timm.create_model(source.removeprefix('timm://'), pretrained=True).state_dict()
    if source.startswith('torchvision://'):
        from torchvision.models import get_model_weights

        url = get_model_weights(source.removeprefix('torchvision://')).DEFAULT.url
        return torch.hub.load_state_dict_from_url(url, map_location='cpu', weights_only=True)
    if source.startswith(('http://', 'https://')):
        return find_state(torch.hub.load_state_dict_from_url(source, map_location='cpu', weights_only=True), source)
    if not Path(source).is_file():
        raise FileNotFoundError(f'no checkpoint at {source!r}')
    return find_state(load_file(source), source)


def load_file(path: str | Path) -> Mapping:
    """The content of a checkpoint file, read with ``weights_only=True``; ValueError if that is refused."""
    try:
        # besides tensors, mmengine keeps its log buffers and numpy scalars in a checkpoint
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        raise ValueError(
            f'{path} was not loaded: it is damaged, or holds objects that could run code ({type(error).__name__}: '
            f'{str(error).splitlines()[0]})'
        ) from error


def find_state(content, source: str) -> dict:
    """The state dict in a checkpoint's content; ValueError if there is none."""
    for key in ('state_dict', 'model', 'state_dict_ema'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(v, torch.Tensor) for v in content.values()):
        raise ValueError(f'{source} holds no state dict')
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
