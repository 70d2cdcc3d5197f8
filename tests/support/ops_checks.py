"""What several rows of the scorecard ask of the ops. As a script: R03 on the kernels that the environment chooses."""

import itertools
import random
import sys

import torch
import torch.distributed as dist

from mmsnn import ops
from mmsnn.ops import extension, reference

LAYOUTS = {
    'contiguous': lambda x: x.contiguous(),
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    'strided': lambda x: torch.stack([x, x], -1)[..., 1],
}
# neurons of one time step, as [C, H, W]
SHAPES = {0: (0, 2, 3), 1: (1, 1, 1), 63: (3, 7, 3), 1025: (5, 41, 5), 3001: (3001, 1, 1)}
STEPS = (1, 4, 5, 16, 40)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# one rounding: half a unit in the last place
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


def settings(i: int) -> dict:
    """Neuron number ``i`` of those that the rows go through."""
    choose = random.Random(i).choice
    out = dict(
        v_threshold=choose([1.0, 0.7]),
        v_reset=choose([0.0, -0.3, 0.2, None]),
        decay_input=choose([True, False]),
        detach_reset=choose([False, True]),
        surrogate=choose(list(reference.SURROGATES)),
        alpha=choose([None, 1.3]),
        levels=1,
    )
    if choose(range(4)) == 0:
        out.update(levels=3, v_reset=None)
    return out


def cases(every: int = 1) -> list[dict]:
    """R03's cases, or every n-th of them."""
    out = []
    for i, (T, size, dtype, tau) in enumerate(itertools.product(STEPS, SHAPES, DTYPES, (2.0, 1.7))):
        choose = random.Random(1000 + i).choice
        how = choose(['number', 'number', 'learned', 'none'])
        rest = dict(v_init=choose([False, True]), layout=choose(list(LAYOUTS)), how=how)
        out.append(dict(T=T, size=size, dtype=dtype, tau=tau, **rest, neuron=settings(i)))
    return out[::every]


def name_of(case: dict) -> str:
    """A case in one line."""
    rest = {**case, 'dtype': str(case['dtype'])[6:]}
    neuron = rest.pop('neuron')
    return ' '.join(f'{k}={v}' for k, v in {**rest, **neuron}.items())


class Sample:
    """Arguments number ``i`` of the ops: types, layouts, time constants and potentials in turn."""

    def __init__(self, i: int, grad: bool = False, size: tuple = (3, 4, 5), layout: str | None = None):
        self.T = (2, 1, 3)[i % 3]
        self.dtype = (torch.float32, torch.float64, torch.bfloat16, torch.float16)[i // 3]
        wide = torch.promote_types(self.dtype, torch.float32)
        arrange = LAYOUTS[layout or list(LAYOUTS)[i % 4]]

        def leaf(x):
            return x.detach().requires_grad_(grad)

        self.x = leaf(arrange(torch.randn(self.T * 2, *size, dtype=self.dtype)))
        tau = None if i == 6 else 1.7
        learned = leaf(torch.tensor(tau, dtype=wide)) if i % 2 else None
        v_init = leaf(torch.randn(2, *size, dtype=wide)) if i % 4 < 2 else None
        self.neuron = (self.T, *ops.NeuronSettings(tau=tau, **settings(i)).encoded, learned, v_init)
        self.return_v = i % 5 < 3
        self.channels = [torch.rand(size[0], dtype=wide) + 0.5 for _ in range(5)]
        self.gradient = torch.randn(self.x.shape, dtype=self.dtype)
        self.gradient_v = torch.randn(2, *size, dtype=wide) if self.return_v else None
        self.i, self.given = i, (i, grad, size, layout)

    def event(self) -> 'EventSample':
        """The same number of sample for the event-driven ops."""
        return EventSample(*self.given)


class EventSample(Sample):
    """Arguments of the event-driven ops: bytes and floats, kernels, strides and groups in turn."""

    def __init__(self, i: int, grad: bool = False, size: tuple = (4, 5, 6), layout: str | None = None):
        super().__init__(i, grad, size, layout)
        choose = random.Random(100 + i).choice
        C, H, W = size
        self.groups = choose([1, 2]) if C % 2 == 0 else 1
        self.kernel = [min(H, choose([1, 3])), min(W, choose([1, 2, 3]))]
        self.stride, self.padding = [choose([1, 2]), 1], [self.kernel[0] // 2, choose([0, 1])]
        self.dilation = [1, 2 if W > 4 else 1]
        self.outputs = choose([2, 6, 34, 70])
        arrange = LAYOUTS[layout or list(LAYOUTS)[i % 4]]
        spikes = torch.randint(-4, 4 if i % 2 else 2, (self.T * 2, *size)).clamp(min=0)
        self.bytes = arrange(spikes.to(torch.uint8))
        self.floats = arrange(spikes * torch.randn(spikes.shape)).detach().requires_grad_(grad)
        self.spikes = self.floats if grad or i % 3 == 0 else self.bytes
        self.weight = torch.randn(self.outputs, C // self.groups, *self.kernel).requires_grad_(grad)
        self.shift = torch.randn(self.outputs).requires_grad_(grad) if i % 4 else None
        self.rows = torch.ops.mmsnn.event_rows(self.weight, self.groups, i % 5 == 0)
        self.geometry = self.stride, self.padding, self.dilation, self.groups
        with torch.no_grad():
            out = torch.nn.functional.conv2d(self.bytes.float(), self.weight, None, *self.geometry)
        self.cotangent = torch.randn_like(out).requires_grad_(grad)
        self.shortcut = [None, torch.randn_like(out), (torch.randn_like(out) > 0).to(torch.uint8)][i % 3]
        levels = dict(levels=3, v_reset=None) if i % 4 == 3 else {}
        tau = None if i == 6 else 1.7
        kind, values = ops.NeuronSettings(tau=tau, **(settings(i) | dict(levels=1) | levels)).encoded
        learned = torch.tensor(1.7) if i % 2 else None
        self.fires = kind, values, learned


# of each op
ARGUMENTS = {
    'event_conv': lambda s: (s.spikes, s.weight, s.shift, *s.geometry),
    'event_conv_weight_grad': lambda s: (s.cotangent, s.spikes, s.kernel, *s.geometry),
    'event_rows': lambda s: (s.weight, s.groups, False),
    'event_layer': lambda s: (
        *(s.spikes, s.rows, s.shift, s.shortcut, s.outputs, s.kernel, *s.geometry, s.T, *s.fires),
        *(s.i % 4 != 1, s.i % 2 == 1),
    ),
    'event_lif': lambda s: (s.floats, s.T, s.i % 2 == 0, *s.fires),
    'event_max_pool': lambda s: (s.bytes, s.kernel, s.stride, [k // 2 for k in s.kernel], s.dilation),
    'event_count': lambda s: (s.bytes,),
}
ARGUMENTS = {name: lambda s, give=give: give(s.event()) for name, give in ARGUMENTS.items()}
EVENT_OPS = tuple(ARGUMENTS)
ARGUMENTS |= {
    'lif': lambda s: (s.x, *s.neuron, s.return_v),
    'lif_backward': lambda s: (s.gradient, s.gradient_v, s.x, *s.neuron),
    'bn_moments': lambda s: (s.x,),
    'bn_lif': lambda s: (s.x, *s.channels[:2], *s.neuron, s.return_v),
    'bn_lif_reduce': lambda s: (s.gradient, s.gradient_v, s.x, *s.channels[:3], *s.neuron),
    'bn_lif_backward': lambda s: (s.gradient, s.gradient_v, s.x, *s.channels, *s.neuron),
    'pack': lambda s: (s.x.detach().gt(0).to(s.dtype), 1 if s.return_v else 8),
    'unpack': lambda s: (
        torch.randint(2, (15 if s.return_v else 120,), dtype=torch.uint8),
        [2, 3, 4, 5],
        [60, 1, 15, 3],
        s.dtype,
        1 if s.return_v else 8,
    ),
}


def check_parity(lif, case: dict) -> None:
    """Assert that ``lif`` is `reference.lif`: spikes and potentials to the bit, gradients up to rounding."""
    T, dtype = case['T'], case['dtype']
    generator = torch.Generator().manual_seed(case['T'] + case['size'])
    wide = torch.promote_types(dtype, torch.float32)

    def noise(*shape, dtype=wide):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    step = SHAPES[case['size']]
    x = LAYOUTS[case['layout']](noise(T, *step, dtype=dtype) * 1.5)
    start = noise(*step) * 0.5 if case['v_init'] else None
    tau = None if case['how'] == 'none' else case['tau']
    if case['how'] == 'learned':
        tau = torch.tensor(tau, dtype=wide)
    cotangents = noise(T, *step, dtype=dtype), noise(*step)

    def run(op, x):
        given = {'x': x, 'tau': tau, 'v_init': start}
        given = {k: v.detach().requires_grad_() if torch.is_tensor(v) else v for k, v in given.items()}
        args = {**given, **case['neuron']}
        out, v = op(args.pop('x'), T, **args, return_v=True)
        learned = {k: v for k, v in given.items() if torch.is_tensor(v)}
        grads = torch.autograd.grad([out, v], list(learned.values()), [cotangents[0].to(out.dtype), cotangents[1]])
        return out, v, dict(zip(learned, grads))

    out, v, grads = run(lif, x)
    expected, last, wanted = run(reference.lif, x.to(wide))
    assert out.dtype == dtype and out.shape == x.shape and v.dtype == wide
    assert torch.equal(out, expected.to(dtype)), 'spikes differ'
    assert torch.equal(v, last), 'last potentials differ'
    assert not out.requires_grad or grads['x'].dtype == dtype
    if x.numel() > 1000:
        assert 0 < expected.bool().double().mean() < 1, 'nothing is tested'
    close = 1e-9 if dtype == torch.float64 else 1e-5
    for name, got in grads.items():
        tolerance = dict(rtol=close, atol=close)
        if name == 'tau':
            # a sum over all neurons and steps
            tolerance['atol'] = close * max(1, x.numel()) ** 0.5
        elif name == 'x' and dtype in ROUNDING:
            tolerance = dict(rtol=ROUNDING[dtype] * 1.01, atol=1e-6)
        wants = wanted[name].to(torch.float64)
        torch.testing.assert_close(
            got.to(torch.float64), wants, **tolerance, msg=lambda m, name=name: f'gradient of {name}: {m}'
        )


def failures(lif, chosen: list[dict]) -> list[str]:
    """Names and first lines of what failed."""
    out = []
    for case in chosen:
        try:
            check_parity(lif, case)
        # whatever goes wrong is a failure
        except Exception as error:
            out.append(f'{name_of(case)}: {str(error).splitlines()[0]}')
    return out


def fill_fresh_memory_with_nan() -> None:
    """Make `torch.empty`, in Python and C++, return NaN: reading what nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def half_of_the_batch(rank, store, x, weight, bias, cotangent, out):
    """`bn_lif` in one of two processes that share their statistics, on its images of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', store=dist.FileStore(store, 2), rank=rank, world_size=2)
    # uneven halves: images 0 and 1, image 2; time is outermost
    mine = slice(0, 2) if rank == 0 else slice(2, 3)
    x, cotangent = (t.unflatten(0, (4, 3))[:, mine].flatten(0, 1) for t in (x, cotangent))
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    mean, var = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
    spikes = ops.bn_lif(leaves[0], 4, mean, var, *leaves[1:], training=True, momentum=0.3, group=dist.group.WORLD)
    grads = torch.autograd.grad(spikes, leaves, cotangent)
    torch.save([spikes.detach(), *grads, mean, var], f'{out}{rank}')
    dist.destroy_process_group()


if __name__ == '__main__':
    torch.set_num_threads(1)
    fill_fresh_memory_with_nan()
    failed = failures(ops.lif, cases())
    print(f'{extension.serving("cpu")}: {len(cases())} cases, {len(failed)} failures', *failed, sep='\n')
    sys.exit(bool(failed))
