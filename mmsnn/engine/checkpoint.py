"""Reading checkpoints of others: never a pickle that may run code."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.runner.checkpoint import get_torch_safe_globals


def load_state(source: str | Path, key: str | None = None) -> dict:
    """State dict of a checkpoint on the CPU.

    Args:
        source: a file, a URL, ``torchvision://NAME`` or ``torchvision://NAME.WEIGHTS`` (``resnet50.imagenet1k_v1``),
            ``timm://NAME``, ``mmpretrain://NAME`` (a model of its zoo).
        key: entry that holds the state dict, for instance ``state_dict_ema``; by default the usual ones are tried.

    Raises:
        FileNotFoundError: no such file.
        ImportError: timm is not installed.
        ValueError: the file holds more than tensors and plain containers, is damaged, or has no state dict; or there
            are no weights of that name.
    """
    source = str(source)
    scheme, there, name = source.partition('://')
    if scheme == 'timm' and there:
        return _timm_state(name)
    if scheme == 'torchvision' and there:
        content = _download(_torchvision_url(name))
    elif scheme == 'mmpretrain' and there:
        content = _download(_mmpretrain_url(name))
    elif scheme in ('http', 'https') and there:
        content = _download(source)
    elif not Path(source).is_file():
        raise FileNotFoundError(f'no checkpoint at {source!r}')
    else:
        content = load_file(source)
    return find_state(content, source, key)


def load_file(path: str | Path) -> Mapping:
    """The content of a checkpoint file, read with ``weights_only=True``; ValueError if that is refused."""
    return _safely(torch.load, path)


def _download(url: str) -> Mapping:
    return _safely(torch.hub.load_state_dict_from_url, url)


def _safely(load, source: str | Path) -> Mapping:
    # besides tensors, mmengine keeps its log buffers and numpy scalars in a checkpoint, others their command line
    inert = [*get_torch_safe_globals(), argparse.Namespace]
    try:
        with torch.serialization.safe_globals(inert):
            return load(source, map_location='cpu', weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f'{source} was not loaded: it is damaged, or holds objects that could run code ({type(error).__name__}: '
            f'{str(error).splitlines()[0]})'
        ) from error


def find_state(content, source: str, key: str | None = None) -> dict:
    """The state dict in a checkpoint's content, under ``key`` or a usual one; ValueError if there is none."""
    if key is not None and not (isinstance(content, Mapping) and isinstance(content.get(key), Mapping)):
        there = ', '.join(map(str, content)) if isinstance(content, Mapping) else 'nothing with names'
        raise ValueError(f'{source} holds no state dict under {key!r}, but {there[:300]}')
    for name in ('state_dict', 'model', 'net', 'state_dict_ema') if key is None else (key,):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not any(isinstance(v, torch.Tensor) for v in content.values()):
        raise ValueError(f'{source} holds no state dict')
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}


def _torchvision_url(name: str) -> str:
    from torchvision.models import get_model_weights

    model, _, weights = name.partition('.')
    try:
        found = get_model_weights(model)
        return (found[weights.upper()] if weights else found.DEFAULT).url
    except (ValueError, KeyError) as error:
        raise ValueError(f'torchvision://{name}: torchvision has no such weights ({error})') from None


def _timm_state(name: str) -> dict:
    try:
        import timm
    except ImportError:
        raise ImportError(f"timm://{name} needs timm: pip install 'mmsnn[timm]'") from None
    return timm.create_model(name, pretrained=True).state_dict()


def _mmpretrain_url(name: str) -> str:
    from mmpretrain.apis.model import ModelHub

    url = ModelHub.get(name).weights
    if not url:
        raise ValueError(f'mmpretrain://{name}: this model of the zoo has no weights')
    return url
