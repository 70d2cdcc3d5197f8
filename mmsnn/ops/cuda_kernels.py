"""What a CUDA kernel is given, as job.h and kernels.cuh declare it, and which kernels there are."""

import ctypes
from ctypes import c_double, c_float, c_int, c_longlong, c_void_p

import torch

# time steps of a chunk
STEPS = 16
TYPES = {torch.float32: 'float', torch.float64: 'double', torch.float16: 'Half', torch.bfloat16: 'BFloat16'}
FIRES = ('kBinary', 'kLevels', 'kAnyFire')


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


# Which kernel ---------------------------------------------------------------------------------------------------------


def width_of(T: int) -> int:
    """Neurons of a thread: 4, as long as the registers hold all steps."""
    return min(4, 32 // T)


def every_kernel() -> list[tuple[str, ...]]:
    """All kernels that may be asked for."""
    found = []
    for name in TYPES.values():
        for body in ('forward', 'backward', 'reduce'):
            for norm in ('true',) if body == 'reduce' else ('false', 'true'):
                choices = [(0, 1, 'kAnyFire')]
                if name != 'double':
                    wide = width_of(STEPS)
                    choices += [(T, width_of(T), 'kBinary') for T in (1, 2, 4, 8, 16)]
                    choices += [(0, wide, 'kBinary'), (0, 1, 'kBinary'), (0, wide, 'kLevels')]
                for T, width, fire in choices:
                    last = () if body == 'reduce' else (norm,)
                    found.append((body, name, str(T), str(width), fire, *last))
        found += [(b, name, bits, rows) for b in ('pack', 'unpack') for bits in '18' for rows in ('false', 'true')]
    return found
