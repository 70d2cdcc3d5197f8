"""Reading checkpoints of others: never a pickle that may run code."""

import argparse
import functools
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import get_torch_safe_globals

from .claims import check_archive, check_tensors, stand_in

# where files of training scripts keep the weights, and where those that keep two kinds keep their moving averages
STATES = ('state_dict', 'model', 'model_state_dict', 'net', 'network', 'weights')
AVERAGES = ('state_dict_ema', 'ema_state_dict', 'model_ema', 'ema')


def load_state(source: str | Path, key: str | None = None) -> dict:
    """State dict of a checkpoint on the CPU.

    Args:
        source: a file, a URL, ``torchvision://NAME`` or ``torchvision://NAME.WEIGHTS`` (``resnet50.imagenet1k_v1``),
            ``timm://NAME``, ``mmpretrain://NAME`` (a model of its zoo).
        key: entry that holds the state dict, for instance ``state_dict_ema``; by default the usual ones are tried.

    Raises:
        FileNotFoundError: no such file.
        ImportError: timm or safetensors is needed and not installed.
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
    elif not Path(source).expanduser().is_file():
        raise FileNotFoundError(f'no checkpoint at {source!r}')
    else:
        content = load_file(source)
    return find_state(content, source, key)


def load_file(path: str | Path) -> Mapping:
    """The content of a checkpoint file, whatever its suffix: torch's, read with ``weights_only=True``, or safetensors.

    Raises:
        ValueError: the file is damaged, no checkpoint, or could run code.
        ImportError: a safetensors file without the package that reads it.
    """
    path = Path(path).expanduser()
    if path.suffix == '.safetensors':
        return _safetensors(path)
    if what := stand_in(path):
        raise ValueError(f'{path} is no checkpoint but {what}')
    try:
        return safely(torch.load, path)
    except ValueError:
        if tarfile.is_tarfile(path):
            raise ValueError(f'{path} is no checkpoint but a tar archive: unpack it first') from None
        raise


def _safetensors(path: Path) -> Mapping:
    try:
        from safetensors.torch import load_file as load
    except ImportError:
        raise ImportError(f'{path} needs the package safetensors: pip install safetensors') from None
    try:
        return load(path)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f'{path} was not loaded: it is damaged or no safetensors file ({error})') from error


def _download(url: str) -> Mapping:
    return safely(torch.hub.load_state_dict_from_url, url)


def safely(load, source, **settings) -> Mapping:
    """What ``load(source)`` reads with ``weights_only=True`` on the CPU; ValueError where it is refused or damaged."""
    # besides tensors, mmengine keeps its log buffers and numpy scalars in a checkpoint, others their command line
    inert = [each for each in get_torch_safe_globals() if each is not getattr]
    inert += [argparse.Namespace, _statistic]
    try:
        if isinstance(source, str | Path):
            check_archive(source)
        with torch.serialization.safe_globals(inert):
            content = load(source, **{**settings, 'map_location': 'cpu', 'weights_only': True})
        check_tensors(content)
        return content
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f'{source} was not loaded: it is damaged, or holds objects that could run code ({type(error).__name__}: '
            f'{str(error).partition(chr(10))[0]}). Only tensors and plain containers are read: where you trust the '
            'file, save its state dict alone with the code that wrote it'
        ) from error


def _statistic(owner: type, name: str):
    """What mmengine's log buffers ask of ``getattr``, their methods; `getattr` itself leads a file to any code."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'it asks for {name!r} of {owner!r}')


# so that files find it
_statistic.__module__, _statistic.__name__, _statistic.__qualname__ = 'builtins', 'getattr', 'getattr'


def find_state(content, source: str, key: str | None = None) -> dict:
    """The state dict in a checkpoint's content, under ``key`` or a usual one; ValueError if there is none.

    A file that holds moving averages beside it is mentioned: which are read, and how to have the others.
    """
    if key is not None and not (isinstance(content, Mapping) and isinstance(content.get(key), Mapping)):
        there = ', '.join(map(str, content)) if isinstance(content, Mapping) else 'nothing with names'
        raise ValueError(f'{source} holds no state dict under {key!r}, but {there[:300]}')
    for name in (*STATES, *AVERAGES) if key is None else (key,):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            if key is None:
                _mention_average(content, name, source)
            content = content[name]
            break
    if not isinstance(content, Mapping) or not any(isinstance(v, torch.Tensor) for v in content.values()):
        raise ValueError(f'{source} holds no state dict')
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}


def _mention_average(content: Mapping, read: str, source: str) -> None:
    others = [name for name in AVERAGES if name != read and isinstance(content.get(name), Mapping)]
    if not others:
        return
    kind, other = 'the last weights', 'moving averages'
    # mmengine's EMAHook exchanges the two, so that what is read are the averages
    if others == ['ema_state_dict'] and 'message_hub' in content:
        kind, other = other, kind
    _say_once(
        f'{source} holds two sets of weights: {read}, {kind}, is read. For {others[0]}, {other}: python -m mmsnn '
        f'convert {source} OTHER.pth --key {others[0]}'
    )


@functools.cache
def _say_once(text: str) -> None:
    print_log(text, logger='current')


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
