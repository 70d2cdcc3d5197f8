"""The ops on CUDA tensors without a compiler: arguments become jobs, and each job chooses its kernel.

What call.h, ops.cpp and ops_cuda.cu do in C++ is done here in Python, on kernels that nvrtc.py compiles and launches.
"""

from collections.abc import Callable
from ctypes import c_longlong, c_void_p

import torch
from torch import Tensor

from .checks import check_dtype, check_gradient, check_rows, check_step
from .cuda_kernels import FIRES, JOBS, STEPS, TYPES, Walk, width_of
from .layout import dense, is_dense, membrane_type, potential
from .neuron import neuron_of
from .nvrtc import THREADS, Driver, Unavailable
from .packed import check_bits, check_packed

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
    check_gradient(grad, x)
    return grad if _lies_as(grad, x) else torch.empty_like(x).copy_(grad)


def _fit(v: Tensor | None, x: Tensor, T: int) -> Tensor | None:
    """A potential, or its gradient, in the memory order of one time step of ``x``."""
    if v is None:
        return None
    check_step(v, x, T)
    out = potential(x, T, True)
    shaped = v.reshape(out.shape)
    return shaped if _lies_as(shaped, out) else out.copy_(shaped)


class _Call:
    """The arguments of an op as a job, and the tensors it points to."""

    def __init__(self, x, T, kind, values, tau, v_init, **norm):
        # without a leak there is no time constant
        _, tau, _ = neuron_of(kind, values, tau)
        check_rows(x, T)
        self.x, self.T = x, T = dense(x), T
        real = membrane_type(x)
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
        job = self.job
        fire = FIRES[job.neuron.fire]
        if self.x.element_size() == 8:
            return 0, 1, 'kAnyFire'
        pointers = (job.x, job.out, job.grad_s, job.v_init, job.v_last, job.grad_v, job.grad_v_init)
        rows = all((p or 0) % 16 == 0 for p in pointers)
        width = width_of(self.T)
        if fire == 'kBinary' and self.T in (1, 2, 4, 8, 16) and rows and length % width == 0:
            return self.T, width, fire
        width = width_of(STEPS)
        if fire != 'kAnyFire' and rows and length % width == 0:
            return 0, width, fire
        return 0, 1, fire if fire == 'kBinary' else 'kAnyFire'

    def starts(self) -> Tensor:
        """Room for potentials between chunks of steps."""
        out = self.x.new_empty((self.T - 1) // STEPS * self.job.N, dtype=membrane_type(self.x))
        self.job.starts = out.data_ptr()
        return out


class Ops:
    """The ops of schema.py, on kernels that ``launch(kernel, grid, *arguments)`` runs."""

    def __init__(self, launch: Callable[..., None]):
        self.launch = launch

    def _run(self, body: str, call: _Call, choice: tuple[int, int, str]) -> None:
        T, width, fire = choice
        kernel = (body, TYPES[call.x.dtype], str(T), str(width), fire, 'true' if call.norm else 'false')
        self.launch(kernel, _blocks(call.job.N // width), call.job)

    def _forward(self, call: _Call, return_v: bool) -> tuple[Tensor, Tensor]:
        x = call.x
        out, v_last = torch.empty_like(x), potential(x, call.T, return_v)
        if x.numel():
            call.job.out = out.data_ptr()
            call.job.v_last = v_last.data_ptr() if return_v else None
            self._run('forward', call, call.choice(call.job.N))
        return out, v_last

    def _backward(self, call: _Call, grad: Tensor, grad_v: Tensor | None, tau: Tensor | None):
        x, job = call.x, call.job
        grad, grad_v = _match(grad, x), _fit(grad_v, x, call.T)
        grad_x, grad_first = torch.empty_like(x), potential(x, call.T, call.v_init is not None)
        grad_tau = grad_first.new_empty(0) if tau is None else torch.zeros_like(tau)
        if x.numel():
            job.out, job.grad_s, job.grad_v = grad_x.data_ptr(), grad.data_ptr(), _address(grad_v)
            job.grad_v_init = None if call.v_init is None else grad_first.data_ptr()
            choice, keep = call.choice(job.N), call.starts()
            if call.tau is not None:
                rates = x.new_empty(_blocks(job.N // choice[1])[0], dtype=torch.float64)
                job.grad_rate = rates.data_ptr()
            self._run('backward', call, choice)
            del keep
            if call.tau is not None:
                grad_tau.copy_((-rates.sum() / call.tau.double().square()).view_as(tau))
        return grad_x, grad_tau, grad_first

    def lif(self, x, T, kind, values, tau, v_init, return_v):
        return self._forward(_Call(x, T, kind, values, tau, v_init), return_v)

    def lif_backward(self, grad, grad_v, x, T, kind, values, tau, v_init):
        return self._backward(_Call(x, T, kind, values, tau, v_init), grad, grad_v, tau)

    def bn_moments(self, x):
        if x.dim() < 2 or not x.numel():
            raise ValueError(f'batch statistics need values, got shape {tuple(x.shape)}')
        check_dtype(x.dtype)
        mean, invstd = torch.batch_norm_stats(dense(x), 0.0)
        # 0 stands for a variance of 0
        return mean, torch.where(invstd > 0, invstd.square().reciprocal(), 0.0).to(mean.dtype)

    def bn_lif(self, x, scale, shift, T, kind, values, tau, v_init, return_v):
        return self._forward(_Call(x, T, kind, values, tau, v_init, scale=scale, shift=shift), return_v)

    def bn_lif_reduce(self, grad, grad_v, x, scale, shift, mean, T, kind, values, tau, v_init):
        call = _Call(x, T, kind, values, tau, v_init, scale=scale, shift=shift, mean=mean)
        x, job, channels = call.x, call.job, call.x.shape[1]
        grad, grad_v = _match(grad, x), _fit(grad_v, x, T)
        if not x.numel():
            return tuple(x.new_zeros(2, channels, dtype=membrane_type(x)))
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
        total, product = sums.sum(0).to(membrane_type(x))
        return total.clone(), product.clone()

    def bn_lif_backward(self, grad, grad_v, x, scale, shift, mean, offset, slope, T, kind, values, tau, v_init):
        norm = dict(scale=scale, shift=shift, mean=mean, offset=offset, slope=slope)
        return self._backward(_Call(x, T, kind, values, tau, v_init, **norm), grad, grad_v, tau)

    def pack(self, x, bits):
        check_bits(bits)
        check_dtype(x.dtype)
        # Any order of the dimensions will do, as long as nothing lies in between.
        packable = x if is_dense(x) else x.contiguous()
        count = packable.numel()
        out = x.new_empty((count + 7) // 8 if bits == 1 else count, dtype=torch.uint8)
        self._move('pack', packable.dtype, bits, packable, count, out)
        return out

    def unpack(self, packed, size, stride, dtype, bits):
        out = check_packed(packed, size, stride, dtype, bits)
        check_dtype(dtype)
        self._move('unpack', dtype, bits, packed.contiguous(), out.numel(), out)
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
