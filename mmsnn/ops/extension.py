"""Which kernels serve the ops: compiled ones, which are loaded at first use, or plain PyTorch.

Importing this module loads and logs nothing. When an op is first called, `use` loads the kernels, and warns if plain
PyTorch serves; by then a training has its log file.
"""

import ctypes
import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.logging import print_log

from . import cuda_host, fallback
from .nvrtc import CSRC
from .schema import library
from .sealing import fault

REMEDY = 'build them with: pip install --no-build-isolation --no-deps -e . (or the wheel\'s sources instead of ".")'
DEVICES = dict(cpu='the CPU', cuda='CUDA')


@dataclass
class _Kernels:
    """The loaded extension, if there is one, and a line about what serves, by the type of the device."""

    extension: ctypes.CDLL | None
    lines: dict[str, str]


_lock = threading.Lock()
_kernels: _Kernels | None = None


def _load() -> _Kernels:
    global _kernels
    with _lock:
        if _kernels is None:
            extension, line = _load_extension()
            _kernels = _Kernels(extension, dict(cpu=line, cuda=_prepare_cuda(extension)))
    return _kernels


def compiled() -> ctypes.CDLL | None:
    """The extension that holds the compiled kernels; None where there is none that fits."""
    return (_kernels or _load()).extension


def serving(device: str) -> str:
    """What serves devices of a type (``'cpu'``, ``'cuda'`` ...): ``compiled (...)`` or ``plain PyTorch``, and why."""
    return (_kernels or _load()).lines.get(device, 'plain PyTorch')


@functools.cache
def use(device: str) -> None:
    """Load the kernels; the first time for a type of device, warn of those that are not compiled."""
    line = serving(device)
    if not line.startswith('compiled') or 'other sources' in line:
        _warn(device, line)


def _warn(device: str, line: str) -> None:
    print_log(f'mmsnn ops on {DEVICES.get(device, device)}: {line}', logger='current', level=logging.WARNING)


# Compiled kernels -----------------------------------------------------------------------------------------------------


def sources_digest() -> str:
    """Digest of the C++ and CUDA sources; the extension carries that of the sources it was built from."""
    files = sorted(p for p in CSRC.iterdir() if p.suffix in ('.h', '.cpp', '.cu', '.cuh'))
    return hashlib.sha256(b''.join(p.read_bytes() for p in files)).hexdigest()[:16]


def _load_extension() -> tuple[ctypes.CDLL | None, str]:
    """The extension, or None, and a line about the kernels of the CPU."""
    if os.environ.get('MMSNN_EXTENSION', '1') == '0':
        return None, 'plain PyTorch (MMSNN_EXTENSION=0)'
    folder = Path(__file__).parent
    files = sorted(folder.glob('_C*.so')) + sorted(folder.glob('_C*.pyd'))
    if not files:
        return None, f'plain PyTorch: the compiled kernels were not built; {REMEDY}'
    reasons = []
    for path in files:
        if reason := fault(path):
            reasons.append(f'{path.name} is not loaded, {reason}')
            continue
        try:
            torch.ops.load_library(path)
            extension = ctypes.CDLL(str(path))
            extension.mmsnn_cpu.restype = extension.mmsnn_sources.restype = ctypes.c_char_p
            break
        # The library was built for another torch, CPU or system.
        except (OSError, AttributeError) as error:
            reasons.append(f'{path.name} does not fit this torch {torch.__version__} ({error.__cause__ or error})')
    else:
        return None, f'plain PyTorch: {"; ".join(reasons)}; {REMEDY}'
    line = f'compiled ({extension.mmsnn_cpu().decode()})'
    if extension.mmsnn_sources().decode() != sources_digest():
        line += f', from other sources than these; {REMEDY}'
    return extension, line


def _prepare_cuda(extension: ctypes.CDLL | None) -> str:
    """A line about the kernels of CUDA devices; where they are compiled at first use, the ops are told so."""
    if torch.version.cuda is None:
        return 'none: this torch was built without CUDA'
    if extension is not None and hasattr(extension, 'mmsnn_cuda'):
        extension.mmsnn_cuda.restype = ctypes.c_char_p
        archs = (f'sm_{int(n) // 10}' for n in extension.mmsnn_cuda().decode().split(','))
        return f'compiled ({", ".join(archs)})'
    if os.environ.get('MMSNN_CUDA', '1') == '0':
        return 'plain PyTorch (MMSNN_CUDA=0)'
    cuda_host.register(library, fallback.OPS, _without_nvrtc)
    return 'compiled at first use (NVRTC)'


def _without_nvrtc(reason: str) -> None:
    line = f'plain PyTorch: the kernels cannot be compiled at first use ({reason}); {REMEDY}'
    _load().lines['cuda'] = line
    _warn('cuda', line)


# Plain PyTorch --------------------------------------------------------------------------------------------------------


def implement(library: torch.library.Library, name: str, op: Callable) -> None:
    """Serve ``torch.ops.mmsnn.NAME`` by ``op`` wherever no compiled kernel does, on any device.

    The kernels may not be loaded yet: programs that were compiled or exported call ``torch.ops`` without `use`.
    """

    def serve(*arguments):
        if _kernels is None:
            _load()
            return getattr(torch.ops.mmsnn, name).default(*arguments)
        return op(*arguments)

    library.impl(name, serve, 'CompositeExplicitAutograd')


for _name, _op in fallback.OPS.items():
    implement(library, _name, _op)
# The extension has a faster derivative of its own for the CPU and for CUDA.
torch.library.register_autograd('mmsnn::lif', fallback.differentiate, setup_context=fallback.keep, lib=library)
for _name in ('lif_backward', 'bn_lif', 'bn_lif_reduce', 'bn_lif_backward', 'bn_moments'):
    torch.library.register_autograd(f'mmsnn::{_name}', fallback.no_second_derivative, lib=library)
