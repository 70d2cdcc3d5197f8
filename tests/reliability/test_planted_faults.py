"""R02: faults planted in a copy of the ops are all caught, in the compiled kernels and in plain PyTorch.

Thirteen in the neurons, ten in the event-driven ops.

The copy is a package ``planted`` that registers its ops under that name; all faults are built in, one is switched on.
"""

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ops_checks
import pytest
import torch
from ops_checks import ARGUMENTS, EVENT_OPS, Sample

from mmsnn.ops import NeuronSettings, event, extension

# name: (C++ file, right, wrong), (Python file, right, wrong); both sides are expressions
FAULTS = {
    'wrong reset': (
        ('lif.h', 's * n.v_rest', 'F(0)'),
        ('reference.py', 'v + s * v_reset', 'v'),
    ),
    'no decay term': (
        ('lif.h', '(x - above_rest) * n.rate', 'x * n.rate'),
        ('reference.py', '(x - above_rest) * rate', 'x * rate'),
    ),
    'gradient of the last step only': (
        ('lif.h', 'grad_h - grad_h * n.rate', 'F(0)'),
        ('reference.py', 'grad_h - grad_h * rate', 'grad_h * 0'),
    ),
    'tail not written': (
        ('cpu_kernels.h', 'rows.forward(x, b.v, out, n, k)', 'rows.forward(x, b.v, out, n & ~7, k)'),
        (
            'reference.py',
            'torch.cat(spikes)',
            'F.pad(torch.stack(spikes).flatten(1)[:, :-1], (0, 1)).reshape(x.shape)',
        ),
    ),
    'strides ignored': (
        ('call.h', 'x.is_non_overlapping_and_dense() && outermost', 'true'),
        ('fallback.py', 'torch.empty_like(x).copy_(out)', 'out.contiguous().as_strided(x.shape, x.stride())'),
    ),
    'detach ignored': (
        ('lif.h', '!detach_reset', 'true'),
        ('reference.py', 'not settings.detach_reset', 'True'),
    ),
    'v_init ignored': (
        ('call.h', 'pointer<F>(v_init)', 'nullptr'),
        ('reference.py', 'v_init is None', 'True'),
    ),
    'wrong factor in a surrogate': (
        ('lif.h', 'quotient(alpha / F(2), w * w + F(1))', 'alpha / (w * w + F(1))'),
        ('reference.py', 'alpha / 2', 'alpha'),
    ),
    'wrong beyond sixteen steps': (
        ('cpu_kernels.h', '(chunk + 1) * kChunk', '(chunk + 1) * kChunk - 1'),
        ('reference.py', 'reversed(range(T))', 'reversed(range(min(T, 16)))'),
    ),
    'sign of the gradient of tau': (
        ('ops.cpp', 'call.tau->to(at::kDouble).square().neg()', 'call.tau->to(at::kDouble).square()'),
        ('reference.py', '-grad_rate', 'grad_rate'),
    ),
    'gradient of the potential dropped': (
        ('ops.cpp', 'fit(grad_v, x, call.T)', 'Maybe()'),
        ('reference.py', 'grad_v is None', 'True'),
    ),
    'bfloat16 cut off': (
        ('cpu_rows.h', '(b.u + 0x7fffu + ((b.u >> 16) & 1u))', 'b.u'),
        (
            'reference.py',
            'torch.stack(grad_x)',
            'torch.stack(grad_x) * (1 - 2**-7 * (x.dtype == torch.bfloat16))',
        ),
    ),
    'wrong fake kernel': (
        (
            'schema.py',
            'torch.empty_like(x), potential(x, T, return_v)',
            'torch.empty_like(x), potential(x, T, True)',
        ),
    )
    * 2,
}
# the same of the event-driven ops
EVENT_FAULTS = {
    'first row of pixels left out': (
        ('event_kernels.h', 'y < 0 || y >= w.H', 'y <= 0 || y >= w.H'),
        ('event_reference.py', 'x.to(weight.dtype)', 'F.pad(x[:, :, 1:], (0, 0, 1, 0)).to(weight.dtype)'),
    ),
    'values ignored': (
        ('event_lists.h', 'graded ? values.data_ptr<float>() : nullptr', 'nullptr'),
        ('event_reference.py', 'x.to(weight.dtype)', '(x != 0).to(weight.dtype)'),
    ),
    'channels behind the last vector left out': (
        ('event_scan.h', 'c < channels', 'false'),
        ('event_reference.py', 'x.to(weight.dtype)', 'F.pad(x[:, :-1], (0, 0, 0, 0, 0, 1)).to(weight.dtype)'),
    ),
    'shift left out': (
        ('event_kernels.h', 's.shift && i < n', 'false'),
        (
            'event_reference.py',
            'conv(x, weight, shift, stride, padding, dilation, groups)',
            'conv(x, weight, None, stride, padding, dilation, groups)',
        ),
    ),
    'shortcut left out': (
        ('event_kernels.h', 's.add[at + i]', '0.0f'),
        ('event_reference.py', 'current + add', 'current'),
    ),
    'membrane starts elsewhere': (
        ('event_kernels.h', 's.neuron.v_rest', '0.25f'),
        (
            'event_reference.py',
            'reference.lif_forward(x, T, settings, tau)',
            'reference.lif_forward(x, T, settings, tau, 0 * x[: len(x) // T] + 0.25)',
        ),
    ),
    'gradient of the weights without values': (
        ('event_kernels.h', 's.events.values ? s.events.values[i] : 1.0f', '1.0f'),
        ('event_reference.py', 'x.to(grad.dtype)', '(x != 0).to(grad.dtype)'),
    ),
    'both halves of a word the same': (
        ('event_kernels.h', '(Bits32)upper << 16', '(Bits32)upper'),
        ('event_reference.py', '(laid << 16)', 'laid'),
    ),
    'dilation ignored': (
        ('event_kernels.h', 'kx * w.dilation_w', 'kx'),
        ('event_reference.py', 'x.to(weight.dtype)', 'x.to(weight.dtype).flip(3)'),
    ),
    'smallest instead of largest': (
        ('event_kernels.h', 'from[c] > to[c]', 'from[c] < to[c]'),
        ('event_reference.py', 'x.float()', '(x > 0).float()'),
    ),
}
ALL = FAULTS | EVENT_FAULTS
# those of R03's cases that a plant is shown
CASES = ops_checks.cases(every=3)


def plant(name: str, source: str) -> str:
    """A file of the ops with its faults, each behind a switch."""
    source = re.sub(r'\bmmsnn\b', 'planted', source)
    python = name.endswith('.py')
    for number, plants in enumerate(ALL.values(), 1):
        for file, right, wrong in set(plants):
            if file == name:
                assert right in source, f'{name} has no {right!r} any more: plant this fault somewhere else'
                choice = f'(({wrong}) if FAULT() == {number} else ({right}))'
                if not python:
                    choice = f'(planted_fault == {number} ? {wrong} : {right})'
                source = source.replace(right, choice)
    if python:
        return source.replace('import torch\n', 'import torch\nfrom . import FAULT\n', 1)
    switch = 'extern "C" int planted_fault;\n' if name == 'lif.h' else ''
    return switch + source + ('int planted_fault = 0;\n' if name == 'ops.cpp' else '')


def compiler() -> str:
    found = next((path for path in map(shutil.which, ('c++', 'g++', 'clang++')) if path), None)
    if found is None:
        pytest.skip('no C++ compiler')
    return found


def compile_plants(folder: Path) -> None:
    """The planted kernels for any CPU, as ``_C.so`` of the package in ``folder``."""
    from torch.utils import cpp_extension

    csrc = folder / 'csrc'
    # one build of the kernels is enough
    device = csrc / 'arch.h'
    device.write_text(device.read_text().replace('defined(__x86_64__)', '0'))
    # all in one, which reads torch's headers once
    sources = sorted(p.name for p in csrc.glob('*.cpp') if 'avx' not in p.name)
    (csrc / 'all.cpp').write_text(''.join(f'#include "{name}"\n' for name in sources))
    command = [compiler(), '-shared', '-fPIC', '-O1', '-g0', '-std=c++17', '-ffp-contract=off']
    command += ['-DMMSNN_SOURCES="planted"', f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}']
    command += [f'-I{path}' for path in cpp_extension.include_paths()]
    command += [str(csrc / 'all.cpp'), '-o', str(folder / '_C.so')]
    command += [f'-L{path}' for path in cpp_extension.library_paths()] + ['-lc10', '-ltorch_cpu', '-ltorch']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module', params=['compiled', 'plain'])
def planted(request, tmp_path_factory):
    """The copy of the ops, and a function that switches one fault on."""
    if request.param == 'compiled' and extension.compiled() is None:
        pytest.skip('the compiled kernels are not here')
    name = f'planted_{request.param}'
    folder = tmp_path_factory.mktemp('ops') / name
    folder.mkdir()
    home = Path(extension.__file__).parent
    shutil.copytree(home / 'csrc', folder / 'csrc')
    files = [folder / 'csrc' / p.name for p in (home / 'csrc').iterdir() if p.suffix in ('.h', '.cpp')]
    files += [folder / p.name for p in home.glob('*.py') if p.name != '__init__.py']
    for file in files:
        source = (home / file.relative_to(folder)).read_text()
        file.write_text(re.sub(r'\bplanted\b', name, plant(file.name, source)))
    (folder / '__init__.py').write_text('def FAULT():\n    return number\n\n\nnumber = 0\n')
    if request.param == 'compiled':
        compile_plants(folder)
    spec = importlib.util.spec_from_file_location(name, folder / '__init__.py')
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    ops = importlib.import_module(f'{name}.lif')
    loaded = importlib.import_module(f'{name}.extension').compiled()
    # registers its ops
    importlib.import_module(f'{name}.event')
    assert (loaded is not None) == (request.param == 'compiled')

    def switch(number):
        package.number = number
        if loaded is not None:
            ctypes.c_int.in_dll(loaded, 'planted_fault').value = number

    return ops.lif, getattr(torch.ops, name), switch


def found(lif, namespace) -> list[str]:
    """What the suite says: R03's cases, and R01's check of the fake kernel."""
    failed = ops_checks.failures(lif, CASES)
    kind, values = NeuronSettings().encoded
    arguments = (torch.randn(4, 3, 5), 2, kind, values, None, None, False)
    try:
        torch.library.opcheck(namespace.lif.default, arguments, test_utils='test_faketensor')
    except torch.testing._internal.optests.OpCheckError as error:
        failed.append(f'opcheck: {error}')
    return failed


def found_on_events(namespace) -> list[str]:
    """Which event-driven ops of the copy answer otherwise than the definition."""
    failed = []
    for i in range(12):
        sample = Sample(i, size=(6, 7, 9))
        for name in EVENT_OPS:
            arguments = ARGUMENTS[name](sample)
            try:
                got = getattr(namespace, name)(*arguments)
            # a copy that cannot run is caught as well
            except Exception as error:
                failed.append(f'{name}: {error}')
                continue
            expected = getattr(event, f'_{name}')(*arguments)
            outs = zip(*(out if isinstance(out, tuple) else [out] for out in (got, expected)), strict=True)
            if not all(a.shape == b.shape and torch.allclose(a.float(), b.float(), 1e-3, 1e-3) for a, b in outs):
                failed.append(f'{name} of sample {i}')
    return failed


def test_the_copy_is_sound(planted):
    lif, namespace, switch = planted
    switch(0)
    failed = found(lif, namespace) + found_on_events(namespace)
    assert not failed, failed


@pytest.mark.parametrize('name', EVENT_FAULTS)
def test_caught_on_events(planted, name):
    _, namespace, switch = planted
    switch(list(ALL).index(name) + 1)
    try:
        failed = found_on_events(namespace)
    finally:
        switch(0)
    assert failed, f'{name} was not caught'


@pytest.mark.parametrize('name', FAULTS)
def test_caught(planted, name):
    lif, namespace, switch = planted
    switch(list(FAULTS).index(name) + 1)
    try:
        failed = found(lif, namespace)
    finally:
        switch(0)
    assert failed, f'{name} was not caught'
    assert len(FAULTS) == 13
