"""R25: 1,000 calls of the public functions with random arguments: the reference's answer, or TypeError or ValueError.

What is drawn is known to be legal or not, so that an illegal call that is answered counts as a failure as well.
"""

import itertools
import math
import numbers
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from ops_checks import ARGUMENTS, EVENT_OPS, Sample

from mmsnn.neurons import IF, ILIF, LIF, PLIF
from mmsnn.ops import bn_lif, event, fallback, lif, reference

# legal values, illegal values
SETTINGS = {
    'tau': (
        lambda: [2.0, 1.7, None, 1, np.float64(3.0), Fraction(3, 2), torch.tensor(1.7), torch.tensor([2.5])],
        lambda: [
            *(0.5, 0, -1, '2', math.nan, math.inf, True, [2.0], 1j, torch.tensor([1.0, 2.0]), torch.tensor(2)),
            torch.ones((), device='meta'),
            torch.tensor(1 + 1j),
        ],
    ),
    'v_threshold': (
        lambda: [1.0, 0.5, 2, np.float32(0.7), 1e30],
        lambda: [0, -1.0, math.nan, math.inf, None, '1', torch.tensor(1.0), True, [1]],
    ),
    'v_reset': (lambda: [0.0, None, -0.5, 0], lambda: [math.nan, 'soft', 1e31, torch.tensor(0.0), False]),
    'decay_input': (lambda: [True, False], lambda: [None, 1, 'yes', torch.tensor(True)]),
    'detach_reset': (lambda: [True, False], lambda: [None, 0, 'False', torch.tensor(True)]),
    'surrogate': (lambda: list(reference.SURROGATES), lambda: ['attan', None, 3, ['atan'], '']),
    'alpha': (lambda: [None, 1.0, 2, 0.3], lambda: [0, -1, math.nan, '2', True, torch.tensor(1.0)]),
    'levels': (lambda: [1, 1, 2, np.int64(3)], lambda: [0, -1, 2.0, None, '2', True, 256, 10**12, 2**70]),
}
T_ILLEGAL = (0, -1, -4, 2.0, True, '4', None, 10**30, torch.tensor(2), [2])
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WRONG_DTYPES = (torch.int64, torch.bool, torch.complex64, torch.uint8, torch.float8_e4m3fn)


class Draw:
    """Random arguments, and whether they are legal."""

    def __init__(self, seed: int, least: int = 1):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        # half of the calls are all right as far as single arguments go
        self.trouble = self.random.choice([0, 0.12])
        self.legal = True
        choose = self.random.choice
        T = choose([1, 2, 3, 5, np.int64(2)])
        B = choose([1, 1, 2, 3])
        shape = (int(T) * B, *(choose([0, 1, 2, 3, 7, 130]) for _ in range(choose(range(least - 1, 5)))))
        if len(shape) < 4 or math.prod(shape) < 3000:
            self.shape = shape
        else:
            self.shape = (*shape[:3], *(1 for _ in shape[3:]))
        self.T = self.or_else(T, T_ILLEGAL)
        if self.T is T and self.bad():
            self.T, self.legal = int(T) + 1, self.legal and self.shape[0] % (int(T) + 1) == 0
            T = self.T
        self.step = (self.shape[0] // int(T), *self.shape[1:])
        self.dtype = choose(DTYPES)
        self.x = self.tensor(self.shape, self.dtype)
        if self.bad():
            self.legal, self.x = False, self.wrong_x()

    def bad(self):
        return self.random.random() < self.trouble

    def or_else(self, legal, illegal):
        """A legal value, or now and then one of the illegal ones."""
        if self.bad():
            self.legal = False
            return self.random.choice(list(illegal))
        return legal

    def tensor(self, shape, dtype):
        """Noise in a random layout."""
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64).mul(1.5).to(dtype)
        kind = self.random.choice(['plain', 'plain', 'permuted', 'strided', 'expanded', 'negated', 'offset'])
        if kind == 'permuted' and x.dim():
            order = self.random.sample(range(x.dim()), x.dim())
            x = x.permute(order).contiguous().permute([order.index(i) for i in range(x.dim())])
        elif kind == 'strided':
            x = torch.stack([x, x], -1)[..., 0]
        elif kind == 'expanded' and x.dim() and 0 not in shape:
            at = self.random.randrange(x.dim())
            x = x.narrow(at, 0, 1).expand(shape)
        elif kind == 'negated':
            x = torch._neg_view(x)
        elif kind == 'offset' and x.dim():
            x = torch.cat([x, x])[shape[0] :]
        return x.detach().requires_grad_(self.random.random() < 0.5)

    def wrong_x(self):
        x = torch.ones(self.shape)
        return self.random.choice(
            [
                *(x.to(t) for t in WRONG_DTYPES),
                *(None, 1.0, x.tolist(), x.numpy(), x.to_sparse(), torch.tensor(1.0), torch.ones(0, 3), 'x'),
            ]
        )

    def settings(self, **fixed):
        out = {}
        for name, (legal, illegal) in SETTINGS.items():
            if self.random.random() < 0.6:
                out[name] = self.or_else(self.random.choice(legal()), illegal())
        full = {'levels': 1, 'v_reset': 0.0, 'v_threshold': 1.0, **out}
        if self.legal:
            # levels need the soft reset
            if full['levels'] > 1 and full['v_reset'] is not None:
                self.legal = False
            if full['v_reset'] is not None and full['v_reset'] >= full['v_threshold']:
                self.legal = False
        return out

    def state(self):
        """``v_init`` and ``return_v``."""
        out = {}
        if self.random.random() < 0.4:
            v = self.tensor(self.step, self.random.choice(DTYPES))
            out['v_init'] = v.reshape(-1) if self.random.random() < 0.2 else v
            if self.bad():
                self.legal = False
                wrong = [v.long(), 0.0, v.detach().to('meta'), v.detach().to_sparse(), v.tolist(), v[None, None]]
                out['v_init'] = self.random.choice(wrong + ([v.flatten()[:1]] if v.numel() > 1 else []))
        if self.random.random() < 0.5:
            out['return_v'] = self.or_else(self.random.random() < 0.8, [1, 'yes', None])
        return out


def plain(value):
    """As the reference takes it: plain numbers."""
    if isinstance(value, bool | str | torch.Tensor) or value is None:
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def show(value):
    if isinstance(value, torch.Tensor):
        return f'{value.dtype} {tuple(value.shape)} {value.stride() if value.layout == torch.strided else value.layout}'
    return repr(value)[:80]


def outputs(result):
    return list(result) if isinstance(result, tuple) else [result]


def differences(got, expected, exact: bool):
    """What is wrong with an answer, or None."""
    got, expected = outputs(got), outputs(expected)
    if len(got) != len(expected):
        return f'{len(got)} outputs instead of {len(expected)}'
    for a, b in zip(got, expected):
        if a.shape != b.shape:
            return f'shape {tuple(a.shape)} instead of {tuple(b.shape)}'
        if not (torch.equal(a.double(), b.double()) if exact else torch.allclose(a.double(), b.double(), atol=1e-4)):
            return 'another answer than the reference'
    return None


def attempt(call, arguments, legal, answer, exact=True):
    """One line about what went wrong, or None."""
    case = ', '.join(f'{k}={show(v)}' for k, v in arguments.items())
    try:
        got = call(**arguments)
    except (TypeError, ValueError) as error:
        return f'legal, but {type(error).__name__}: {error}: {case}' if legal else None
    # whatever else is raised is a failure
    except Exception as error:
        return f'{type(error).__name__}: {str(error).splitlines()[0]}: {case}'
    if not legal:
        return f'illegal, but answered: {case}'
    wrong = differences(got, answer(), exact)
    if wrong is None and outputs(got)[0].requires_grad:
        sum(out.sum() for out in outputs(got)).backward()
    return f'{wrong}: {case}' if wrong else None


def none(lines):
    failed = [line for line in lines if line]
    assert not failed, f'{len(failed)} failures:\n' + '\n'.join(failed[:20])


@pytest.mark.parametrize('chunk', range(10))
def test_lif(chunk, record_property):
    """40 calls each."""

    def one(seed):
        draw = Draw(seed)
        arguments = dict(x=draw.x, T=draw.T, **draw.settings(), **draw.state())
        return attempt(lif, arguments, draw.legal, lambda: reference.lif(**{k: plain(v) for k, v in arguments.items()}))

    record_property('tries', 40)
    none(one(seed) for seed in range(40 * chunk, 40 * chunk + 40))


@pytest.mark.parametrize('chunk', range(10))
def test_bn_lif(chunk, record_property):
    """30 calls each."""

    def one(seed):
        draw = Draw(seed, least=2)
        channels = draw.shape[1]
        arguments = dict(x=draw.x, T=draw.T)
        for name in ('running_mean', 'running_var', 'weight', 'bias'):
            value = torch.rand(channels, generator=draw.generator).to(draw.random.choice(DTYPES)) + 0.5
            wrong = [value.long(), 1.0, value[None], value.to('meta'), torch.ones(channels + 1), value.tolist()]
            wrong += [torch.ones(1)] if channels != 1 else []
            missing = draw.random.random() < 0.15
            arguments[name] = None if missing else draw.or_else(value, wrong)
        arguments['training'] = draw.or_else(draw.random.random() < 0.5, [1, None, 'no'])
        arguments['momentum'] = draw.random.choice([0.1, 1, np.float32(0.5)])
        arguments['eps'] = draw.or_else(1e-3, [-1.0, math.nan, None, '0', torch.tensor(1e-5)])
        arguments.update(draw.settings())
        arguments.update(draw.state())
        illegal = (arguments['running_mean'] is None) != (arguments['running_var'] is None)
        illegal |= arguments['training'] is False and arguments['running_mean'] is None
        illegal |= arguments['training'] is True and math.prod(draw.shape) <= channels
        kept = {k: v.clone() for k, v in arguments.items() if k.startswith('running') and torch.is_tensor(v)}

        def answer():
            # in float64, where rounding is no matter; the statistics as they were
            wide = {k: plain(v) for k, v in {**arguments, **kept}.items()}
            wide = {k: v.double() if torch.is_tensor(v) else v for k, v in wide.items()}
            if draw.x.numel() == 0:
                # torch's batch norm wants channels
                wide = {k: v for k, v in wide.items() if k in ('x', 'T', 'v_init', 'return_v')}
                return reference.lif(**wide)
            return reference.bn_lif(**wide)

        return attempt(bn_lif, arguments, draw.legal and not illegal, answer, exact=False)

    record_property('tries', 30)
    none(one(seed) for seed in range(5000 + 30 * chunk, 5030 + 30 * chunk))


@pytest.mark.parametrize('neuron_class', [IF, LIF, PLIF, ILIF])
def test_modules(neuron_class, record_property):
    """75 calls each: construction and call."""

    def one(seed):
        draw = Draw(seed)
        settings, state = draw.settings(), draw.state()
        if torch.is_tensor(settings.get('tau')):
            del settings['tau']
            draw.legal = False
        legal = draw.legal and neuron_class is LIF and settings.get('tau', 2.0) is not None
        arguments = dict(x=draw.x, T=draw.T, **settings, **state)

        def call(x, T, v_init=None, return_v=False, **settings):
            neuron = neuron_class(T, **settings)
            out = neuron(x, v_init, return_v)
            expected = reference.lif(
                x,
                plain(T),
                neuron.settings,
                v_init=v_init,
                return_v=return_v,
                **neuron.learned(),
            )
            wrong = differences(out, expected, True)
            assert wrong is None, wrong
            return out

        if legal:
            return attempt(call, arguments, True, lambda: reference.lif(**{k: plain(v) for k, v in arguments.items()}))
        try:
            call(**arguments)
        except (TypeError, ValueError):
            pass
        # whatever else is raised is a failure
        except Exception as error:
            return f'{type(error).__name__}: {str(error).splitlines()[0]}: {arguments}'
        return None

    record_property('tries', 75)
    none(one(seed) for seed in range(9000, 9075))


@pytest.mark.parametrize('name', [*SETTINGS, 'T'])
def test_each_illegal_value_alone(name):
    """Where nothing else could be the reason."""
    for value in T_ILLEGAL if name == 'T' else SETTINGS[name][1]():
        with pytest.raises((TypeError, ValueError)):
            lif(torch.ones(6, 3), **{'T': 2, 'v_reset': None, name: value})
            pytest.fail(f'{name}={show(value)} was answered')


def mutations(value):
    """Wrong values for one argument of an op."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().flatten()
        yield from (flat, flat[:1], flat[:0], flat[:-1], torch.cat([flat, flat]), value.detach()[None])
        yield from (flat[:1].expand(value.numel()), flat[0].expand(value.shape), value.detach().to_sparse())
        yield from (value.detach().to('meta'), value.detach().long(), value.detach().double(), torch.tensor(1.0))
        yield from (value.detach().to(torch.complex64), torch.zeros(0, 3), torch.zeros(4, 0), None)
    elif isinstance(value, bool):
        yield from (not value, None, 2)
    elif isinstance(value, int):
        yield from (0, -1, 2**40, 2**70, 7, None, 2.5)
    elif isinstance(value, list):
        yield from ([], value[:-1], value + value, None)
        if isinstance(value[0], int):
            yield from ([-1] * len(value), [99] * len(value), [2**40] * len(value))
        single = (-1, 2, 256, 2**40) if isinstance(value[0], int) else (0.0, -1.0, math.nan, 1.5)
        yield from ([*value[:at], wrong, *value[at + 1 :]] for at in range(len(value)) for wrong in single)
    elif value is None:
        yield from (torch.tensor(1.7), torch.zeros(3), torch.zeros(0))


def other_error(plain_op, given, error, case):
    """One line where the plain PyTorch version does not raise what the compiled op has raised, or None."""
    try:
        plain_op(*given)
    except type(error):
        return None
    # whatever else is raised is a failure
    except Exception as other:
        return f'{case}: {type(other).__name__}: {other}, instead of {type(error).__name__}: {error}'
    return f'{case}: answered, instead of {type(error).__name__}: {error}'


@pytest.mark.parametrize('name', ARGUMENTS)
def test_ops_themselves(name):
    """One wrong argument at a time: an error, or what the plain PyTorch version answers."""
    op = getattr(torch.ops.mmsnn, name)
    plain_op = getattr(event, f'_{name}') if name in EVENT_OPS else fallback.OPS[name]
    failed, tried = [], 0
    for i in (0, 1, 4, 5):
        arguments = list(ARGUMENTS[name](Sample(i)))
        for at, value in enumerate(arguments):
            for wrong in mutations(value):
                given = [*arguments[:at], wrong, *arguments[at + 1 :]]
                tried += 1
                meta = any(torch.is_tensor(t) and t.is_meta for t in given)
                case = f'{name} argument {at} = {show(wrong)} instead of {show(value)}'
                try:
                    got = op(*given)
                # any error will do
                except Exception as error:
                    if wrong is not None and not meta and type(error) in (TypeError, ValueError):
                        failed.append(other_error(plain_op, given, error, case))
                    continue
                if meta:
                    continue
                try:
                    expected = plain_op(*given)
                # the plain version refuses, so should the compiled one
                except Exception as error:
                    failed.append(f'{case}: answered where plain PyTorch says {type(error).__name__}: {error}')
                    continue
                for a, b in itertools.zip_longest(outputs(got), outputs(expected)):
                    if a.shape != b.shape or not torch.allclose(a.double(), b.double(), 1e-2, 1e-2, equal_nan=True):
                        failed.append(f'{case}: {a.shape} {b.shape} differ')
    none(failed)
    assert tried > 50
