"""Reading checkpoints without ever running code from them."""

import argparse
import errno
import functools
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from unittest import mock
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from torch import _weights_only_unpickler

from mmsnn.shipped import local

from .claims import check_archive, check_tensors, require_file, stand_in
from .standins import instead, safe_globals

# Keys under which training scripts store weights, and keys of moving averages in files that hold both.
STATES = ('state_dict', 'model', 'model_state_dict', 'net', 'network', 'weights')
AVERAGES = ('state_dict_ema', 'ema_state_dict', 'model_ema', 'ema')


def load_state(source: str | Path, key: str | None = None) -> dict:
    """The state dict of a checkpoint, on the CPU.

    Args:
        source: a file, a URL, ``torchvision://NAME`` or ``torchvision://NAME.WEIGHTS`` (``resnet50.imagenet1k_v1``),
            ``timm://NAME``, ``mmpretrain://NAME`` (a model of its zoo), or ``mmsnn://NAME`` (`mmsnn list weights`).
        key: key of the state dict in the file, for example ``state_dict_ema``; None tries the usual keys.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: timm or safetensors is needed and not installed.
        ValueError: the file holds more than tensors and plain containers, is damaged, or has no state dict; or there
            are no weights of that name.
    """
    return find_state(load_content(source), source, key)


def load_content(source: str | Path) -> Mapping:
    """All that a checkpoint holds, given and refused as for `load_state`."""
    source = local(source)
    scheme, there, name = source.partition('://')
    if scheme == 'timm' and there:
        return _timm_state(name)
    if scheme == 'torchvision' and there:
        return download(_torchvision_url(name))
    if scheme == 'mmpretrain' and there:
        return download(_mmpretrain_url(name))
    if scheme in ('http', 'https') and there:
        return download(source)
    require_file(source)
    return load_file(source)


def load_file(path: str | Path) -> Mapping:
    """The content of a checkpoint file: safetensors by its suffix, or else torch's format with ``weights_only=True``.

    Raises:
        ValueError: the file is damaged, is not a checkpoint, or could run code.
        ImportError: the file needs the package safetensors, which is not installed.
    """
    path = Path(local(path)).expanduser()
    if path.suffix == '.safetensors':
        return _safetensors(path)
    if what := stand_in(path):
        raise ValueError(f'{path} is not a checkpoint but {what}')
    try:
        return safely(path)
    except ValueError:
        if tarfile.is_tarfile(path):
            raise ValueError(f'{path} is not a checkpoint but a tar archive: unpack it first') from None
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
        raise ValueError(f'{path} was not loaded: it is damaged, or not a safetensors file ({error})') from error


def download(url: str, folder: str | None = None, progress: bool = True) -> Mapping:
    """The content of a checkpoint at an address, which is downloaded once into ``folder`` (by default torch's).

    Raises:
        ValueError: as in `load_file`, or the address names no file.
        OSError: the download failed.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise ValueError(f'{url} names no file')
    path = Path(folder or Path(torch.hub.get_dir(), 'checkpoints'), name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'downloads {url} to {path}', logger='current')
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    try:
        return load_file(path)
    except ValueError as error:
        raise ValueError(f'{url}: {error}') from error


def safely(source: Path | io.BytesIO, **settings) -> Mapping:
    """The result of ``torch.load`` on the CPU with ``weights_only=True``; ValueError for unsafe or damaged files."""
    # Besides tensors, mmengine's checkpoints hold log buffers and numpy scalars, and others hold their command line.
    allowed = [slice, argparse.Namespace, *safe_globals()]
    # The functions that torch itself allows a file to call.
    own = getattr(_weights_only_unpickler, '_get_allowed_globals', dict)()
    try:
        size = check_archive(source)
        if isinstance(source, io.BytesIO):
            source.seek(0)
        with torch.serialization.safe_globals(allowed), mock.patch.dict(own, instead(own)):
            content = torch.load(source, **{**settings, 'map_location': 'cpu', 'weights_only': True})
        check_tensors(content, size)
        return content
    except Exception as error:
        # a file cut off within its first 64 kB makes zipfile look before its beginning, which no disk is to blame for
        if isinstance(error, OSError) and (error.filename is not None or error.errno != errno.EINVAL):
            raise
        # torch's message begins with instructions to run the code, which are left out.
        reason = str(error).rpartition('WeightsUnpickler error: ')[2].strip().partition('\n')[0]
        raise ValueError(
            f'{source} was not loaded: it is damaged, or holds objects that could run code ({type(error).__name__}: '
            f'{reason}). Only tensors and plain containers are read: if you trust the file, save its state dict alone '
            'with the code that wrote it'
        ) from error


def find_state(content, source: str, key: str | None = None) -> dict:
    """The state dict in a checkpoint's content, under ``key`` or a usual one; ValueError if there is none.

    If the file also holds moving averages, the log says which weights are read, and how to get the others.
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
    # mmengine's EMAHook exchanges the two when it saves, so state_dict holds the averages.
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
