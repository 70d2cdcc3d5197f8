"""CUDA kernels compiled when they are first asked for, and launched, for an mmsnn that was built without nvcc.

csrc/kernels.cuh is compiled by the NVRTC library that torch brings along; what it gives is kept in the user's cache.
"""

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from ctypes import c_int, c_void_p
from pathlib import Path

import torch

CSRC = Path(__file__).with_name('csrc')
# threads of a block
THREADS = 128
HEADERS = ('kernels.cuh', 'rows.cuh', 'job.h', 'lif.h')
OPTIONS = ('--std=c++17', '--fmad=false')


class Unavailable(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


# Kernels as text ------------------------------------------------------------------------------------------------------
# A kernel is named by a function of kernels.cuh and its template arguments, all text.


def entry(kernel: tuple[str, ...]) -> str:
    """The definition of ``kernel`` as a function that can be found by the name `symbol` gives it."""
    body, *arguments = kernel
    if body == 'pack':
        takes, gives = 'const void* x, long long n, unsigned char* out', 'x, n, out'
    elif body == 'unpack':
        takes, gives = 'const unsigned char* packed, long long n, void* out', 'packed, n, out'
    else:
        takes = f'const mmsnn::Job<{"double" if arguments[0] == "double" else "float"}> job'
        gives = 'job'
        if body == 'reduce':
            takes, gives = f'{takes}, const mmsnn::Walk walk', 'job, walk'
    call = f'{body}<{", ".join(arguments)}>({gives});'
    return (
        f'extern "C" __global__ void __launch_bounds__({THREADS}) {symbol(kernel)}({takes}) '
        f'{{ using namespace mmsnn; {call} }}\n'
    )


def symbol(kernel: tuple[str, ...]) -> str:
    """The name of a kernel in compiled code."""
    return '_'.join(kernel)


# Compiling and loading ------------------------------------------------------------------------------------------------


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """The NVRTC library of the present torch.

    Raises:
        Unavailable: there is none.
    """
    major = (torch.version.cuda or '0').partition('.')[0]
    name = f'libnvrtc.so.{major}'
    folders = [Path(p) / 'nvidia' / f for p in sys.path for f in (f'cu{major}', 'cuda_nvrtc')]
    reasons = []
    for path in (name, *(str(folder / 'lib' / name) for folder in folders)):
        try:
            found = ctypes.CDLL(path)
        except OSError as error:
            reasons.append(str(error))
            continue
        found.nvrtcGetErrorString.restype = ctypes.c_char_p
        return found
    raise Unavailable(f'{name} was not found ({reasons[0]}); the package nvidia-cuda-nvrtc holds it')


def _ask(code: int) -> None:
    if code:
        raise Unavailable(f'NVRTC: {nvrtc().nvrtcGetErrorString(code).decode()}')


def version() -> str:
    """Version of NVRTC."""
    major, minor = c_int(), c_int()
    _ask(nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f'{major.value}.{minor.value}'


def architecture(capability: tuple[int, int]) -> str:
    """``sm_NN`` of a compute capability; of one that NVRTC does not know yet, an older ``compute_NN``.

    Raises:
        Unavailable: it is older than all that NVRTC knows.
    """
    count = c_int()
    _ask(nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (c_int * count.value)()
    _ask(nvrtc().nvrtcGetSupportedArchs(known))
    wanted = 10 * capability[0] + capability[1]
    if wanted in known:
        return f'sm_{wanted}'
    older = [n for n in known if n < wanted]
    if not older:
        raise Unavailable(f'NVRTC {version()} does not compile for compute capability {wanted / 10}')
    return f'compute_{max(older)}'


def compile_kernels(kernels: list[tuple[str, ...]], arch: str) -> bytes:
    """Machine code (``sm_NN``) or PTX (``compute_NN``) of kernels.

    Raises:
        Unavailable: NVRTC refuses, with its log.
    """
    library = nvrtc()
    source = '#include "kernels.cuh"\n' + ''.join(map(entry, kernels))
    texts = (ctypes.c_char_p * len(HEADERS))(*((CSRC / name).read_bytes() for name in HEADERS))
    names = (ctypes.c_char_p * len(HEADERS))(*(name.encode() for name in HEADERS))
    program = c_void_p()
    _ask(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b'mmsnn.cu', len(HEADERS), texts, names))
    try:
        options = [option.encode() for option in (*OPTIONS, f'--gpu-architecture={arch}')]
        failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if failed:
            log = _out(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            raise Unavailable(f'NVRTC: {log.rstrip(bytes(1)).decode(errors="replace").strip()}')
        if arch.startswith('sm'):
            return _out(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
        return _out(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _out(size_of, get, program) -> bytes:
    size = ctypes.c_size_t()
    _ask(size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _ask(get(program, buffer))
    return buffer.raw


def cache_folder() -> Path | None:
    """Where compiled kernels are kept: ``$XDG_CACHE_HOME/mmsnn``, else ``~/.cache/mmsnn``; None without a home."""
    try:
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmsnn'
    except RuntimeError:
        return None


def cached_kernel(kernel: tuple[str, ...], arch: str) -> bytes:
    """`compile_kernels` of one kernel, or what that gave before; a cache that cannot be used is passed over."""
    parts = [(CSRC / name).read_bytes() for name in HEADERS]
    parts += [text.encode() for text in (entry(kernel), arch, version(), *OPTIONS)]
    key = hashlib.sha256(b'\0'.join(parts)).hexdigest()
    folder = cache_folder()
    path = folder and folder / f'{symbol(kernel)}-{arch}-{key[:32]}'
    try:
        # a digest in front tells a damaged file
        held = path.read_bytes() if path else b''
        if held[:32] == hashlib.sha256(held[32:]).digest():
            return held[32:]
    except OSError:
        pass
    image = compile_kernels([kernel], arch)
    try:
        if path:
            _write(path, hashlib.sha256(image).digest() + image)
    except OSError:
        pass
    return image


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(number, 'wb') as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Driver:
    """Loads and launches kernels on the current device and stream."""

    def __init__(self):
        try:
            self.library = ctypes.CDLL('libcuda.so.1')
        except OSError as error:
            raise Unavailable(f"CUDA's driver was not found ({error})") from None
        self.functions: dict[tuple, c_void_p] = {}

    def __call__(self, kernel: tuple[str, ...], grid: tuple[int, int], *arguments) -> None:
        device = torch.cuda.current_device()
        function = self.functions.get((device, kernel))
        if function is None:
            self._enter(device)
            function = self.functions[device, kernel] = self._load(kernel, device)
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        stream = c_void_p(torch.cuda.current_stream().cuda_stream)
        launch = (function, *grid, 1, THREADS, 1, 1, 0, stream, pointers, None)
        code = self.library.cuLaunchKernel(*launch)
        if code == 201:
            # a thread of autograd's that has no context yet
            self._enter(device)
            code = self.library.cuLaunchKernel(*launch)
        if code:
            raise RuntimeError(f'CUDA error {self._name(code)} at the launch of {symbol(kernel)}')

    def _enter(self, device: int) -> None:
        """Make the context that torch uses the thread's, where it has none."""
        context, number = c_void_p(), c_int()
        self._check(self.library.cuCtxGetCurrent(ctypes.byref(context)))
        if context:
            return
        # ordinals count as CUDA_VISIBLE_DEVICES says, in both
        self._check(self.library.cuDeviceGet(ctypes.byref(number), device))
        self._check(self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), number))
        self._check(self.library.cuCtxSetCurrent(context))

    def _load(self, kernel: tuple[str, ...], device: int) -> c_void_p:
        image = cached_kernel(kernel, architecture(torch.cuda.get_device_capability(device)))
        module, function = c_void_p(), c_void_p()
        self._check(self.library.cuModuleLoadData(ctypes.byref(module), image))
        self._check(self.library.cuModuleGetFunction(ctypes.byref(function), module, symbol(kernel).encode()))
        return function

    def _check(self, code: int) -> None:
        if code:
            raise Unavailable(f'CUDA error {self._name(code)}')

    def _name(self, code: int) -> str:
        name = ctypes.c_char_p()
        self.library.cuGetErrorName(code, ctypes.byref(name))
        return (name.value or str(code).encode()).decode()
