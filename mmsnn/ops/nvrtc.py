"""CUDA kernels compiled at first use, for a torch with CUDA whose mmsnn was built without nvcc.

csrc/kernels.cuh is compiled by the NVRTC library that torch brings along, each kernel when it is first asked for, and
kept in the user's cache. What ops.cpp and ops_cuda.cu do in C++ is done here in Python: arguments to jobs, the choice
of a kernel, and its launch.
"""

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from ctypes import c_double, c_float, c_int, c_longlong, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from .library import CSRC, _dense, _membrane_type, _potential, decode, is_dense

THREADS, STEPS = 128, 16
LONGEST, LONGEST_NORM = 8, 4
TYPES = {torch.float32: 'float', torch.float64: 'double', torch.float16: 'Half', torch.bfloat16: 'BFloat16'}
FIRES = ('kBinary', 'kLevels', 'kAnyFire')
HEADERS = ('kernels.cuh', 'job.h', 'lif.h')
OPTIONS = ('--std=c++17', '--fmad=false')


class Unavailable(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


# The structures of job.h and kernels.cuh ------------------------------------------------------------------------------


def _structure(name: str, **fields) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {'_fields_': list(fields.items())})


def _job_structure(real) -> type[ctypes.Structure]:
    names = ('leak', 'reset', 'surrogate', 'fire', 'detach_reset')
    neuron = _structure(
        'Neuron',
        **dict.fromkeys(('rate', 'v_threshold', 'v_rest', 'alpha'), real),
        levels=c_int,
        **dict.fromkeys(names, c_int),
    )
    pointers = ['x', 'out', 'tau', 'v_init', 'v_last', 'grad_s', 'grad_v', 'grad_v_init', 'grad_rate', 'starts']
    return _structure(
        'Job',
        T=c_longlong,
        N=c_longlong,
        **dict.fromkeys(pointers, c_void_p),
        channels=c_longlong,
        inner=c_longlong,
        **dict.fromkeys(['scale', 'shift', 'mean', 'offset', 'slope', 'sums'], c_void_p),
        neuron=neuron,
        type=c_int,
    )


JOBS = {torch.float32: _job_structure(c_float), torch.float64: _job_structure(c_double)}
Walk = _structure('Walk', columns=c_longlong, runs=c_longlong, rows=c_longlong, width=c_int)


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


def width_of(itemsize: int, T: int, longest: int) -> int:
    """Neurons of a thread: 16 bytes of a step, as long as the registers hold all steps."""
    width = 16 // itemsize
    while width > 1 and (width * T > 32 or width > longest):
        width //= 2
    return width


def every_kernel() -> list[tuple[str, ...]]:
    """All kernels that may be asked for."""
    found = []
    for dtype, name in TYPES.items():
        for body in ('forward', 'backward', 'reduce'):
            for norm in ('true',) if body == 'reduce' else ('false', 'true'):
                longest = LONGEST_NORM if norm == 'true' else LONGEST
                choices = [(0, 1, 'kAnyFire')]
                if name != 'double':
                    wide = width_of(dtype.itemsize, STEPS, longest)
                    choices += [(T, width_of(dtype.itemsize, T, longest), 'kBinary') for T in (1, 2, 4, 8, 16)]
                    choices += [(0, wide, 'kBinary'), (0, 1, 'kBinary'), (0, wide, 'kLevels')]
                for T, width, fire in choices:
                    last = () if body == 'reduce' else (norm,)
                    found.append((body, name, str(T), str(width), fire, *last))
        found += [(b, name, bits, rows) for b in ('pack', 'unpack') for bits in '18' for rows in ('false', 'true')]
    return found


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


# The ops --------------------------------------------------------------------------------------------------------------


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _blocks(threads: int) -> tuple[int, int]:
    return _ceil_div(threads, THREADS), 1


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _lies_as(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.stride() == b.stride() and a.device == b.device


def _match(grad: Tensor, x: Tensor) -> Tensor:
    """``grad`` in the strides of ``x``."""
    if grad.shape != x.shape:
        raise ValueError(f'the gradient of spikes {tuple(x.shape)} has the shape {tuple(grad.shape)}')
    return grad if _lies_as(grad, x) else torch.empty_like(x).copy_(grad)


def _fit(v: Tensor | None, x: Tensor, T: int) -> Tensor | None:
    """A potential, or its gradient, in the memory order of one time step of ``x``."""
    if v is None:
        return None
    if v.numel() * T != x.numel():
        raise ValueError(f'a potential must hold one time step of x {tuple(x.shape)}, got {tuple(v.shape)}')
    out = _potential(x, T, True)
    shaped = v.reshape(out.shape)
    return shaped if _lies_as(shaped, out) else out.copy_(shaped)


class _Call:
    """The arguments of an op as a job, and the tensors it points to."""

    def __init__(self, x, T, kind, values, tau, v_init, **norm):
        decode(kind, values, tau)
        if T < 1 or x.dim() < 1 or x.shape[0] % T:
            raise ValueError(f'the first dimension of x must hold T={T} time steps, got shape {tuple(x.shape)}')
        if x.dtype not in TYPES:
            raise TypeError(f'expected float16, bfloat16, float32 or float64, got {x.dtype}')
        self.x, self.T = x, T = _dense(x), T
        real = _membrane_type(x)
        wide = dict(device=x.device, dtype=real)
        self.v_init = _fit(v_init, x, T)
        self.tau = None if tau is None else tau.to(**wide)
        self.norm = {name: value.to(**wide).contiguous() for name, value in norm.items()}
        for value in self.norm.values():
            if x.dim() < 2 or value.numel() != x.shape[1]:
                raise ValueError(f'batch norm of x {tuple(x.shape)} needs one number a channel, got {value.numel()}')
        leak, reset, surrogate, fire, levels, detach_reset = kind
        self.job = JOBS[real](
            T=T,
            N=x.numel() // T,
            x=x.data_ptr(),
            tau=_address(self.tau),
            v_init=_address(self.v_init),
            neuron=(*values, levels, leak, reset, surrogate, fire, detach_reset),
            **{name: value.data_ptr() for name, value in self.norm.items()},
        )
        if norm:
            self.job.channels, self.job.inner = x.shape[1], max(1, x.stride(1))

    def choice(self, length: int) -> tuple[int, int, str]:
        """T, width and fire of the kernel, for neurons in memory runs of ``length``; as ops_cuda.cu chooses."""
        job, itemsize = self.job, self.x.element_size()
        fire = FIRES[job.neuron.fire]
        if itemsize == 8:
            return 0, 1, 'kAnyFire'
        pointers = (job.x, job.out, job.grad_s, job.v_init, job.v_last, job.grad_v, job.grad_v_init)
        rows = all((p or 0) % 16 == 0 for p in pointers)
        longest = LONGEST_NORM if self.norm else LONGEST
        width = width_of(itemsize, self.T, longest)
        if fire == 'kBinary' and self.T in (1, 2, 4, 8, 16) and rows and length % width == 0:
            return self.T, width, fire
        width = width_of(itemsize, STEPS, longest)
        if fire != 'kAnyFire' and rows and length % width == 0:
            return 0, width, fire
        return 0, 1, fire if fire == 'kBinary' else 'kAnyFire'

    def starts(self) -> Tensor:
        """Room for potentials between chunks of steps."""
        out = self.x.new_empty((self.T - 1) // STEPS * self.job.N, dtype=_membrane_type(self.x))
        self.job.starts = out.data_ptr()
        return out


class Ops:
    """The ops of library.py, on kernels that ``launch(kernel, grid, *arguments)`` runs."""

    def __init__(self, launch: Callable[..., None]):
        self.launch = launch

    def _run(self, body: str, call: _Call, choice: tuple[int, int, str]) -> None:
        T, width, fire = choice
        kernel = (body, TYPES[call.x.dtype], str(T), str(width), fire, 'true' if call.norm else 'false')
        self.launch(kernel, _blocks(call.job.N // width), call.job)

    def _forward(self, call: _Call, return_v: bool) -> tuple[Tensor, Tensor]:
        x = call.x
        out, v_last = torch.empty_like(x), _potential(x, call.T, return_v)
        if x.numel():
            call.job.out = out.data_ptr()
            call.job.v_last = v_last.data_ptr() if return_v else None
            self._run('forward', call, call.choice(call.job.N))
        return out, v_last

    def _backward(self, call: _Call, grad: Tensor, grad_v: Tensor | None, tau: Tensor | None):
        x, job = call.x, call.job
        grad, grad_v = _match(grad, x), _fit(grad_v, x, call.T)
        grad_x, grad_first = torch.empty_like(x), _potential(x, call.T, call.v_init is not None)
        grad_tau = grad_first.new_empty(0) if tau is None else torch.zeros_like(tau)
        if x.numel():
            job.out, job.grad_s, job.grad_v = grad_x.data_ptr(), grad.data_ptr(), _address(grad_v)
            job.grad_v_init = None if call.v_init is None else grad_first.data_ptr()
            choice, keep = call.choice(job.N), call.starts()
            if tau is not None:
                rates = x.new_empty(_blocks(job.N // choice[1])[0], dtype=torch.float64)
                job.grad_rate = rates.data_ptr()
            self._run('backward', call, choice)
            del keep
            if tau is not None:
                grad_tau.copy_((-rates.sum() / call.tau.double().square()).view_as(tau))
        return grad_x, grad_tau, grad_first

    def lif(self, x, T, kind, values, tau, v_init, return_v):
        return self._forward(_Call(x, T, kind, values, tau, v_init), return_v)

    def lif_backward(self, grad, grad_v, x, T, kind, values, tau, v_init):
        return self._backward(_Call(x, T, kind, values, tau, v_init), grad, grad_v, tau)

    def bn_moments(self, x):
        mean, invstd = torch.batch_norm_stats(_dense(x), 0.0)
        # 0 stands for a variance of 0
        return mean, torch.where(invstd > 0, invstd.square().reciprocal(), 0.0).to(mean.dtype)

    def bn_lif(self, x, scale, shift, T, kind, values, tau, v_init, return_v):
        return self._forward(_Call(x, T, kind, values, tau, v_init, scale=scale, shift=shift), return_v)

    def bn_lif_reduce(self, grad, grad_v, x, scale, shift, mean, T, kind, values, tau, v_init):
        call = _Call(x, T, kind, values, tau, v_init, scale=scale, shift=shift, mean=mean)
        x, job, channels = call.x, call.job, call.x.shape[1]
        grad, grad_v = _match(grad, x), _fit(grad_v, x, T)
        if not x.numel():
            return tuple(x.new_zeros(2, channels, dtype=_membrane_type(x)))
        job.grad_s, job.grad_v = grad.data_ptr(), _address(grad_v)
        if channels == 1:
            job.inner = job.N
        keep = call.starts()
        together = job.inner > 1
        steps, width, fire = call.choice(job.inner if together else channels)
        columns = channels if together else channels // width
        rows = job.N // width // columns
        across = 1 if together else min(THREADS, 1 << (columns - 1).bit_length())
        grid_x = _ceil_div(columns, across)
        grid_y = max(1, min(1024 // grid_x, _ceil_div(rows, 4 * (THREADS // across))))
        sums = x.new_empty(grid_y, 2, channels, dtype=torch.float64)
        job.sums = sums.data_ptr()
        walk = Walk(columns, job.inner // width if together else 1, rows, across)
        self.launch(('reduce', TYPES[x.dtype], str(steps), str(width), fire), (grid_x, grid_y), job, walk)
        del keep
        total, product = sums.sum(0).to(_membrane_type(x))
        return total.clone(), product.clone()

    def bn_lif_backward(self, grad, grad_v, x, scale, shift, mean, offset, slope, T, kind, values, tau, v_init):
        norm = dict(scale=scale, shift=shift, mean=mean, offset=offset, slope=slope)
        return self._backward(_Call(x, T, kind, values, tau, v_init, **norm), grad, grad_v, tau)

    def pack(self, x, bits):
        if bits not in (1, 8):
            raise ValueError(f'bits must be 1 (spikes) or 8 (integers up to 255), got {bits}')
        # any order of the dimensions, as long as nothing lies in between
        dense = x if is_dense(x) else x.contiguous()
        count = dense.numel()
        out = x.new_empty((count + 7) // 8 if bits == 1 else count, dtype=torch.uint8)
        self._move('pack', dense.dtype, bits, dense, count, out)
        return out

    def unpack(self, packed, size, stride, dtype, bits):
        if bits not in (1, 8):
            raise ValueError(f'bits must be 1 (spikes) or 8 (integers up to 255), got {bits}')
        packed = packed.contiguous()
        out = torch.empty_strided(size, stride, dtype=dtype, device=packed.device)
        count = out.numel()
        held = (count + 7) // 8 if bits == 1 else count
        if packed.dtype != torch.uint8 or packed.numel() != held:
            raise ValueError(f'{packed.dtype} {tuple(packed.shape)} does not hold size {size} with strides {stride}')
        self._move('unpack', dtype, bits, packed, count, out)
        return out

    def _move(self, body: str, dtype: torch.dtype, bits: int, source: Tensor, count: int, target: Tensor) -> None:
        if count:
            aligned = source.data_ptr() % 16 == target.data_ptr() % 16 == 0
            kernel = (body, TYPES[dtype], str(bits), 'true' if aligned else 'false')
            pointers = c_void_p(source.data_ptr()), c_void_p(target.data_ptr())
            self.launch(kernel, _blocks(_ceil_div(count, 8)), pointers[0], c_longlong(count), pointers[1])


def register(library: torch.library.Library, fallbacks: dict[str, Callable], on_failure: Callable[[str], None]) -> None:
    """Serve the ops on CUDA tensors with kernels compiled at first use.

    Args:
        library: that of the ops.
        fallbacks: by name, the ops in plain PyTorch, which serve once compiling has failed.
        on_failure: called with the reason, once.
    """
    ops: Ops | None = None
    failed = False

    def implement(name: str):
        def op(*arguments):
            nonlocal ops, failed
            if not failed:
                device = next(a.device for a in arguments if isinstance(a, Tensor))
                try:
                    with torch.cuda.device(device):
                        ops = ops or Ops(Driver())
                        return getattr(ops, name)(*arguments)
                except Unavailable as error:
                    failed = True
                    on_failure(str(error))
            return fallbacks[name](*arguments)

        library.impl(name, op, 'CUDA')

    for name in fallbacks:
        implement(name)
