"""R06: the kernels on a GPU: parity, side streams, CUDA graphs, more than 2^31 elements, and compute-sanitizer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ops_checks
import pytest
import torch

from mmsnn.ops import bn_lif, extension, lif

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def search_path() -> str:
    """Value of PYTHONPATH with which another process finds this test and its helpers besides what is found here."""
    paths = Path(__file__).parent, Path(ops_checks.__file__).parent, os.environ.get('PYTHONPATH')
    return os.pathsep.join(str(p) for p in paths if p)


def on_gpu(op):
    """``op`` with its tensors carried to the GPU and back."""

    def call(*args, **kwargs):
        args = [a.cuda() if torch.is_tensor(a) else a for a in args]
        kwargs = {k: v.cuda() if torch.is_tensor(v) else v for k, v in kwargs.items()}
        out = op(*args, **kwargs)
        return tuple(t.cpu() for t in out) if isinstance(out, tuple) else out.cpu()

    return call


def step(x, norm, cotangent):
    """Spikes and gradients of norm and neuron, alone and as one."""
    leaves = [t.detach().requires_grad_() for t in (x, *norm)]
    out = lif(leaves[0], 4, tau=1.7) + bn_lif(leaves[0], 4, None, None, *leaves[1:], training=True, v_reset=None)
    return out.detach(), *torch.autograd.grad(out, leaves, cotangent)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
def given(request):
    x = torch.randn(8, 12, 9, 7, device='cuda').contiguous(memory_format=request.param)
    norm = torch.rand(12, device='cuda') + 0.5, torch.rand(12, device='cuda')
    return x, norm, torch.randn_like(x)


def test_kernels_serve():
    lif(torch.ones(1, 1, device='cuda'), 1)
    assert extension.serving('cuda').startswith('compiled'), extension.serving('cuda')


@pytest.mark.parametrize('case', ops_checks.cases(), ids=ops_checks.name_of)
def test_parity(case):
    ops_checks.check_parity(on_gpu(lif), case)


def test_parity_of_nvrtc(tmp_path):
    """In a process without the extension, with an empty cache, then with a full one."""
    code = 'import ops_checks, sys, test_cuda as t; from mmsnn.ops import extension, lif\n'
    code += 'failed = ops_checks.failures(t.on_gpu(lif), ops_checks.cases(3))\n'
    code += 'print(extension.serving("cuda"), *failed, sep="\\n"); sys.exit(bool(failed))'
    env = {**os.environ, 'MMSNN_EXTENSION': '0', 'XDG_CACHE_HOME': str(tmp_path), 'PYTHONPATH': search_path()}
    for _ in range(2):
        done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
        assert done.returncode == 0 and 'NVRTC' in done.stdout, done.stdout + done.stderr
    assert any(tmp_path.rglob('forward_*'))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', [(8, 12, 9, 7), (8, 16, 14, 14), (8, 64, 56, 56), (40, 512, 1, 1), (8, 3, 31, 9)])
@pytest.mark.parametrize('form', [torch.contiguous_format, torch.channels_last])
def test_batch_norm(dtype, shape, form):
    x = torch.randn(shape).to(dtype).contiguous(memory_format=form)
    cotangent = torch.randn_like(x)
    norm = torch.rand(shape[1]) + 0.5, torch.rand(shape[1])
    runs = []
    for place in ('cpu', 'cuda'):
        leaves = [t.to(place).requires_grad_() for t in (x.detach(), *norm)]
        mean, var = torch.zeros(shape[1], device=place), torch.ones(shape[1], device=place)
        out = bn_lif(leaves[0], 4, mean, var, *leaves[1:], training=True, tau=1.7)
        grads = torch.autograd.grad(out, leaves, cotangent.to(place))
        runs.append([t.detach().cpu().float() for t in (out, mean, var, *grads)])
    (out, *numbers), (expected, *wanted) = runs[1], runs[0]
    # the statistics differ in their last bits, and then some potential crosses the threshold
    assert (out != expected).float().mean() < 1e-4
    for a, b in zip(numbers, wanted):
        assert (a - b).norm() <= 2e-2 * b.norm()


def test_twice_the_same(given):
    for a, b in zip(step(*given), step(*given)):
        assert torch.equal(a, b)


def test_side_stream(given):
    expected = step(*given)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    # what other streams do in the meantime must not matter
    torch.cuda._sleep(10_000_000)
    with torch.cuda.stream(stream):
        got = step(*given)
    stream.synchronize()
    for a, b in zip(got, expected):
        assert torch.equal(a, b)


def test_cuda_graph(given):
    x, norm, cotangent = given
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(x, norm, cotangent)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step(x, norm, cotangent)
    for _ in range(2):
        x.normal_()
        graph.replay()
        for a, b in zip(got, step(x, norm, cotangent)):
            assert torch.equal(a, b)


def test_more_than_two_to_the_31st():
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip('needs 40 GB')
    count = 2**31 + 4096
    x = torch.zeros(2, count // 2, dtype=torch.float16, device='cuda')
    x[:, -5:] = torch.tensor([4.0, -1.0, 4.0, 0.0, 4.0])
    x.requires_grad_()
    out = lif(x, 2)
    assert out.sum(dtype=torch.float64) == 6 and out[:, -5:].tolist() == [[1.0, 0.0, 1.0, 0.0, 1.0]] * 2
    (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    small = x.detach()[:, -8:].clone().requires_grad_()
    (expected,) = torch.autograd.grad(lif(small, 2).sum(), small)
    assert torch.equal(grad[:, -8:], expected)


def test_wrong_values_stop_pack():
    """In a process of its own: the context is lost."""
    code = 'import torch, mmsnn.ops; torch.ops.mmsnn.pack(torch.full((9,), 0.5).cuda(), 1); torch.cuda.synchronize()'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode and 'packed_spikes=False' in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which('compute-sanitizer') is None, reason='no compute-sanitizer')
@pytest.mark.parametrize('tool', ['memcheck', 'racecheck', 'initcheck'])
def test_sanitizer(tool):
    code = 'import ops_checks, sys, test_cuda as t; from mmsnn.ops import lif\n'
    code += 'sys.exit(bool(ops_checks.failures(t.on_gpu(lif), ops_checks.cases(10))))'
    # torch's cache would hide accesses beyond a tensor
    env = {**os.environ, 'PYTHONPATH': search_path(), 'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
    command = ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9', sys.executable, '-c', code]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
