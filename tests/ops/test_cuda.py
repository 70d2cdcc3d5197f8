"""The CUDA kernels without a GPU: both compilers take them, and run on the CPU they give what the reference gives."""

import ctypes
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import ops_checks
import pytest
import torch

from mmsnn.ops import NeuronSettings, cuda_host, cuda_kernels, extension, fallback, nvrtc, reference

HERE = Path(__file__).parent
NAMES = ('lif', 'lif_backward', 'bn_lif', 'bn_lif_reduce', 'bn_lif_backward', 'pack', 'unpack')
PLAIN = types.SimpleNamespace(**{name: fallback.OPS[name] for name in NAMES})
DTYPES = tuple(cuda_kernels.TYPES)
# one time step in front of batch norm
IMAGES = ((3, 4, 7, 7), (2, 8, 4, 4), (5, 3, 2, 3), (2, 1, 3, 3), (3, 130, 1, 1))
NORMED = (*IMAGES, *(('channels_last', *step) for step in IMAGES), (71, 5), (6, 64))


@pytest.fixture(scope='session')
def launch(tmp_path_factory):
    """`nvrtc.Driver` on the CPU: the same kernels, through a C++ compiler."""
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('no g++')
    folder = tmp_path_factory.mktemp('cuda_on_cpu')
    source = '#include "cuda_on_cpu.h"\n#include "kernels.cuh"\n'
    for kernel in cuda_kernels.every_kernel():
        name, real = nvrtc.symbol(kernel), 'double' if kernel[1] == 'double' else 'float'
        types_ = {
            'pack': ('const void*', 'long long', 'unsigned char*'),
            'unpack': ('const unsigned char*', 'long long', 'void*'),
            'reduce': (f'mmsnn::Job<{real}>', 'mmsnn::Walk'),
        }.get(kernel[0], (f'mmsnn::Job<{real}>',))
        given = ', '.join(f'*static_cast<{t} const*>(args[{i}])' for i, t in enumerate(types_))
        source += nvrtc.entry(kernel)
        source += f'extern "C" const char* run_{name}(unsigned x, unsigned y, void** args) {{\n'
        source += f'  launch({nvrtc.THREADS}, x, y, [&] {{ {name}({given}); }});\n  return refusal;\n}}\n'
    (folder / 'all.cpp').write_text(source)
    flags = ['-std=c++17', '-O1', '-ffp-contract=off', '-Wno-unknown-pragmas', '-fPIC', '-shared']
    done = subprocess.run(
        [compiler, *flags, f'-I{HERE}', f'-I{nvrtc.CSRC}', 'all.cpp', '-o', 'all.so'],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode and '_Float16' in done.stderr:
        pytest.skip('this g++ knows no 16-bit numbers')
    assert done.returncode == 0, done.stderr
    kernels = ctypes.CDLL(str(folder / 'all.so'))

    def run(kernel, grid, *arguments):
        run.seen.add(kernel)
        assert all(type(n) is int and n > 0 for n in grid) and grid[1] < 65536
        function = kernels[f'run_{nvrtc.symbol(kernel)}']
        function.restype = ctypes.c_char_p
        refusal = function(*grid, (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments)))
        if refusal:
            raise ValueError(refusal.decode())

    run.seen = set()
    return run


@pytest.fixture(scope='session')
def ops(launch):
    return cuda_host.Ops(launch)


class TestCompilers:
    def test_nvcc(self, tmp_path):
        """ops_cuda.cu, to PTX of one architecture: machine code for all takes minutes."""
        from torch.utils import cpp_extension

        home = cpp_extension.CUDA_HOME
        if not home or not torch.version.cuda or not (nvcc := Path(home, 'bin', 'nvcc')).exists():
            pytest.skip('no nvcc, or a torch without CUDA')
        headers = [Path(p, 'nvidia', 'cu13', 'include') for p in sys.path]
        places = [*cpp_extension.include_paths(), *(p for p in headers if p.is_dir())]
        command = [nvcc, '-std=c++17', '--fmad=false', '-gencode', 'arch=compute_90,code=compute_90', '-Xcompiler']
        command += ['-fPIC', '-c', nvrtc.CSRC / 'ops_cuda.cu', '-o', tmp_path / 'ops.o', '-Xfatbin=-compress-all']
        # what it says of the sources is the same without optimisation, and comes sooner
        command += ['--device-debug']
        for place in places:
            command += ['-isystem', place]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert 'kernels.cuh' not in done.stderr and 'ops_cuda.cu' not in done.stderr, done.stderr
        # both launchers know the same kernels
        names = subprocess.run(['nm', '-C', tmp_path / 'ops.o'], capture_output=True, text=True, check=True).stdout
        fires = {'0': 'kBinary', '1': 'kLevels', '-1': 'kAnyFire'}
        found = set()
        for body, arguments in re.findall(r' t void mmsnn::\(anonymous namespace\)::([a-z]+)_kernel<([^>]*)>\(', names):
            first, *rest = (a.removeprefix('mmsnn::') for a in arguments.split(', '))
            if 'pack' not in body:
                # the membrane's type comes last
                rest = [*rest[:2], fires[rest[2]], *rest[3:-1]]
            found.add((body, first, *rest))
        assert found == set(cuda_kernels.every_kernel())

    def test_nvrtc(self):
        """All of one type, and of the others a few, which come from the same lines; nvcc compiles all."""
        _need_nvrtc()
        few = [k for k in cuda_kernels.every_kernel() if k[1] == 'Half' or 'kAnyFire' in k or 'pack' in k[0]]
        code = nvrtc.compile_kernels(few, 'compute_80').decode()
        for kernel in few:
            assert f'.entry {nvrtc.symbol(kernel)}(' in code

    @pytest.mark.parametrize('dtype', ['float', 'Half', 'BFloat16'])
    def test_instructions(self, dtype):
        _need_nvrtc()
        width = '4' if dtype == 'float' else '8'
        forward, backward = (
            nvrtc.compile_kernels([(body, dtype, '4', width, 'kBinary', 'false')], 'compute_90').decode()
            for body in ('forward', 'backward')
        )
        # contracted, a spike that is computed again might be another
        assert 'fma.' not in forward
        # 16 bytes at a time: each step of x, of the gradient and of what is written
        for code, steps in ((forward, 4), (backward, 8)):
            assert len(re.findall(r'ld\.global\.v4\.(?:[fu]32|b32)', code)) >= steps
            assert len(re.findall(r'st\.global\.v4\.b32', code)) >= 4
            # a tau, or one sum of a block, and nothing else is alone
            assert len(re.findall(r'(?:ld|st)\.global\.[^v]', code)) <= 2
            assert '.local' not in code

    def test_nvrtc_makes_machine_code(self):
        _need_nvrtc()
        for arch in ('sm_80', 'sm_90'):
            code = nvrtc.compile_kernels([('forward', 'BFloat16', '4', '8', 'kBinary', 'true')], arch)
            assert code[:4] == b'\x7fELF'

    def test_architecture(self):
        _need_nvrtc()
        assert nvrtc.architecture((9, 0)) == 'sm_90'
        assert nvrtc.architecture((99, 0)).startswith('compute_')
        with pytest.raises(nvrtc.Unavailable, match='capability 2.0'):
            nvrtc.architecture((2, 0))
        with pytest.raises(nvrtc.Unavailable, match='nonsense'):
            nvrtc.compile_kernels([('nonsense', 'float')], 'sm_90')


def _need_nvrtc():
    try:
        nvrtc.nvrtc()
    except nvrtc.Unavailable as error:
        pytest.skip(str(error))


class TestCache:
    KERNEL = ('forward', 'float', '1', '4', 'kBinary', 'false')

    @pytest.fixture(autouse=True)
    def _count(self, monkeypatch, tmp_path):
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
        monkeypatch.setattr(nvrtc, 'version', lambda: '1.0')
        self.compiled = []
        monkeypatch.setattr(nvrtc, 'compile_kernels', lambda *args: self.compiled.append(args) or b'code')
        self.folder = tmp_path / 'cache' / 'mmsnn'

    def test_compiled_once(self):
        assert [nvrtc.cached_kernel(self.KERNEL, 'sm_90') for _ in range(3)] == [b'code'] * 3
        assert len(self.compiled) == 1 and len(list(self.folder.iterdir())) == 1
        nvrtc.cached_kernel(self.KERNEL, 'sm_80')
        assert len(self.compiled) == 2

    def test_another_nvrtc(self, monkeypatch):
        nvrtc.cached_kernel(self.KERNEL, 'sm_90')
        monkeypatch.setattr(nvrtc, 'version', lambda: '2.0')
        nvrtc.cached_kernel(self.KERNEL, 'sm_90')
        assert len(self.compiled) == 2

    @pytest.mark.parametrize('content', [b'', b'short', b'\0' * 100])
    def test_damaged(self, content):
        nvrtc.cached_kernel(self.KERNEL, 'sm_90')
        (file,) = self.folder.iterdir()
        file.write_bytes(content)
        assert nvrtc.cached_kernel(self.KERNEL, 'sm_90') == b'code' and len(self.compiled) == 2
        assert nvrtc.cached_kernel(self.KERNEL, 'sm_90') == b'code' and len(self.compiled) == 2

    def test_unusable(self, monkeypatch):
        # a file where the folder should be: root may write everywhere else
        self.folder.parent.write_bytes(b'')
        assert nvrtc.cached_kernel(self.KERNEL, 'sm_90') == b'code'
        monkeypatch.setattr(nvrtc, 'cache_folder', lambda: None)
        assert nvrtc.cached_kernel(self.KERNEL, 'sm_90') == b'code'


@pytest.mark.skipif(extension.compiled() is None, reason='the extension was not built')
def test_job_structure():
    for wide, real in enumerate((torch.float32, torch.float64)):
        job = cuda_kernels.JOBS[real]
        neuron = dict(job._fields_)['neuron']
        offsets = []
        for name, _ in job._fields_:
            offsets.append(getattr(job, name).offset)
            if name == 'neuron':
                offsets += [job.neuron.offset + getattr(neuron, n).offset for n in ('levels', 'detach_reset')]
        offsets.append(ctypes.sizeof(job))
        found = (ctypes.c_int64 * 64)()
        count = extension.compiled().mmsnn_job(wide, found)
        assert found[:count] == offsets


def test_fallback_says_why(monkeypatch):
    """Where compiling fails too, plain PyTorch serves from then on, after one line."""
    calls, lines, implemented = [], [], {}
    fake = types.SimpleNamespace(impl=lambda name, f, key: implemented.update({name: f}))
    cuda_host.register(fake, {'pack': lambda x, bits: calls.append(bits) or x}, lines.append)

    def refuse():
        raise nvrtc.Unavailable('no driver')

    monkeypatch.setattr(cuda_host, 'Driver', refuse)
    monkeypatch.setattr(torch.cuda, 'device', lambda device: torch.no_grad())
    x = torch.ones(3)
    assert implemented['pack'](x, 1) is x and implemented['pack'](x, 8) is x
    assert calls == [1, 8] and lines == ['no driver']


class TestEmulated:
    @pytest.mark.parametrize('case', ops_checks.cases(), ids=ops_checks.name_of)
    def test_lif(self, ops, case):
        ops_checks.check_parity(differentiable(ops), case)

    @pytest.mark.parametrize('dtype', DTYPES)
    @pytest.mark.parametrize('T', [1, 2, 3, 4, 8, 16, 17, 40])
    @pytest.mark.parametrize('step', [(64, 5, 3), (16, 4, 4), (7, 3, 5), (13,)], ids=str)
    def test_vectors(self, ops, dtype, T, step):
        """Sizes that vectors divide and sizes that they do not, over several blocks."""
        case = dict(T=T, size=0, dtype=dtype, tau=1.7, v_init=True, layout='contiguous', how='learned')
        for i in range(4):
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(ops_checks.SHAPES, 0, step)
                ops_checks.check_parity(differentiable(ops), {**case, 'neuron': ops_checks.settings(i + T)})

    @pytest.mark.parametrize('dtype', DTYPES)
    def test_misaligned(self, ops, dtype):
        x = torch.randn(4 * 64 + 1).to(dtype)[1:].view(4, 64) * 1.5
        neuron = 4, *NeuronSettings(tau=1.7, **ops_checks.settings(0)).encoded, None, None
        assert torch.equal(ops.lif(x, *neuron, False)[0], PLAIN.lif(x, *neuron, False)[0])

    @pytest.mark.parametrize('dtype', DTYPES)
    def test_smooth(self, ops, dtype):
        for surrogate in reference.SURROGATES:
            kind, values = NeuronSettings(tau=1.7, surrogate=surrogate).encode(smooth=True)
            x, g = (torch.randn(20, 33).to(dtype) for _ in range(2))
            close = dict(rtol=1e-2, atol=1e-2) if dtype.itemsize == 2 else dict(rtol=1e-4, atol=1e-5)
            args = 20, kind, values, None, None
            torch.testing.assert_close(ops.lif(x, *args, True), PLAIN.lif(x, *args, True), **close)
            torch.testing.assert_close(
                ops.lif_backward(g, None, x, *args), PLAIN.lif_backward(g, None, x, *args), **close
            )

    @pytest.mark.parametrize('dtype', DTYPES)
    @pytest.mark.parametrize('T', [1, 2, 4, 5, 8, 16, 40])
    @pytest.mark.parametrize('step', NORMED, ids=str)
    def test_batch_norm(self, ops, dtype, T, step):
        form = torch.contiguous_format
        if step[0] == 'channels_last':
            form, step = torch.channels_last, step[1:]
        wide = torch.promote_types(dtype, torch.float32)
        channels = step[1]
        # products without rounding, so that a fused multiply-add gives the same
        x = ((torch.randn(T * step[0], *step[1:]) * 64).round() / 64).to(dtype).contiguous(memory_format=form)
        grad, grad_v = torch.randn_like(x), torch.randn(step, dtype=wide)
        scale = torch.tensor([0.5, 1.0, 2.0], dtype=wide)[torch.arange(channels) % 3]
        shift = ((torch.rand(channels) * 64).round() / 64).to(wide)
        mean, offset, slope = torch.randn(3, channels, dtype=wide) * 0.1
        binary = [i for i in range(T, T + 40) if ops_checks.settings(i)['levels'] == 1]
        levels = [i for i in range(T, T + 40) if ops_checks.settings(i)['levels'] > 1]
        for i, number in enumerate((*binary[:2], levels[0], binary[2])):
            smooth = i == 3
            kind, values = NeuronSettings(tau=1.7, **ops_checks.settings(number)).encode(smooth)
            tau = torch.tensor(1.7, dtype=wide) if i else None
            v_init = torch.randn(step, dtype=wide) if i > 1 else None
            neuron = T, kind, values, tau, v_init
            close = dict(rtol=1e-9, atol=1e-8) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-4)
            rounded = dict(rtol=ops_checks.ROUNDING[dtype] * 2, atol=1e-4) if dtype.itemsize == 2 else close
            for a, b in zip(ops.bn_lif(x, scale, shift, *neuron, True), PLAIN.bn_lif(x, scale, shift, *neuron, True)):
                assert a.stride() == b.stride() and a.dtype == b.dtype
                if smooth:
                    torch.testing.assert_close(a, b, **rounded)
                else:
                    assert torch.equal(a, b)
            args = grad, grad_v, x, scale, shift, mean
            torch.testing.assert_close(ops.bn_lif_reduce(*args, *neuron), PLAIN.bn_lif_reduce(*args, *neuron), **close)
            args = *args, offset, slope
            for a, b in zip(ops.bn_lif_backward(*args, *neuron), PLAIN.bn_lif_backward(*args, *neuron)):
                # the gradient of tau is a sum of many
                torch.testing.assert_close(a, b, **(dict(rtol=1e-4, atol=1e-2) if a.dim() == 0 else rounded))

    def test_sums_over_many_rows(self, ops):
        """More rows than one turn of the threads, in several blocks."""
        for shape, form in (((2 * 9, 3, 31, 9), torch.contiguous_format), ((2 * 9, 8, 16, 12), torch.channels_last)):
            x = torch.randn(shape).contiguous(memory_format=form)
            one = torch.ones(shape[1])
            args = torch.randn_like(x), None, x, one, 0 * one, 0.3 * one
            neuron = 2, *NeuronSettings().encoded, None, None
            torch.testing.assert_close(
                ops.bn_lif_reduce(*args, *neuron), PLAIN.bn_lif_reduce(*args, *neuron), rtol=1e-4, atol=1e-3
            )

    @pytest.mark.parametrize('dtype', DTYPES)
    @pytest.mark.parametrize('bits', [1, 8])
    @pytest.mark.parametrize('count', [0, 1, 7, 8, 63, 1025, 4096])
    @pytest.mark.parametrize('shift', [0, 1])
    def test_pack(self, ops, dtype, bits, count, shift):
        x = torch.randint(0, 2 if bits == 1 else 256, (count + shift,)).to(dtype)[shift:]
        packed = ops.pack(x, bits)
        assert torch.equal(packed, PLAIN.pack(x, bits))
        # from an odd address too
        for start in (0, 1):
            moved = torch.cat([packed[:start], packed])[start:]
            assert torch.equal(ops.unpack(moved, x.shape, (1,), dtype, bits), x)
        for wrong in (0.5, -1.0, 2.0 if bits == 1 else 256.0, float('nan'), float('inf')) if count else ():
            y = x.clone()
            y[count // 2] = wrong
            with pytest.raises(ValueError, match='packed_spikes=False'):
                ops.pack(y, bits)

    def test_pack_keeps_the_order_of_memory(self, ops):
        x = torch.randint(0, 2, (4, 3, 5, 7)).float().contiguous(memory_format=torch.channels_last)
        packed = ops.pack(x, 1)
        assert torch.equal(packed, PLAIN.pack(x, 1))
        assert torch.equal(ops.unpack(packed, x.shape, x.stride(), x.dtype, 1), x)

    def test_every_kernel_ran(self, launch, request):
        if not any('test_vectors' in item.name for item in request.session.items):
            pytest.skip('only after the others')
        assert not set(cuda_kernels.every_kernel()) - launch.seen


def differentiable(ops):
    """`mmsnn.ops.lif` on other ops."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, tau, v_init, *rest):
            ctx.save_for_backward(x, tau, v_init)
            ctx.rest = rest
            T, kind, values = rest
            return ops.lif(x, T, kind, values, tau, v_init, True)

        @staticmethod
        def backward(ctx, grad, grad_v):
            x, tau, v_init = ctx.saved_tensors
            T, kind, values = ctx.rest
            grad_x, grad_tau, grad_first = ops.lif_backward(grad, grad_v, x, T, kind, values, tau, v_init)
            return (
                grad_x,
                None if tau is None else grad_tau,
                None if v_init is None else grad_first.reshape(v_init.shape),
                None,
                None,
                None,
            )

    def lif(x, T, *, tau, v_init, return_v, **settings):
        learned = tau if isinstance(tau, torch.Tensor) else None
        encoded = NeuronSettings(tau=2.0 if learned is not None else tau, **settings).encoded
        return Function.apply(x, learned, v_init, T, *encoded)

    return lif
