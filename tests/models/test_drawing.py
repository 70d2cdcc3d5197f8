"""Random numbers of an image, the same in all of its time steps."""

import pytest
import torch

from mmsnn.models.drawing import SameDraws

DRAWS = {
    'rand': lambda x: torch.rand(len(x), 5),
    'rand of a tuple': lambda x: torch.rand((len(x), 5), dtype=torch.float64),
    'randn': lambda x: torch.randn(len(x), 5, 2),
    'randint': lambda x: torch.randint(100, (len(x), 5)),
    'randint between': lambda x: torch.randint(3, 100, [len(x), 5]),
    'rand by size': lambda x: torch.rand(size=(len(x), 5)),
    'randint by size': lambda x: torch.randint(high=100, size=[len(x), 5], dtype=torch.int32),
    'randint with a low bound by size': lambda x: torch.randint(6, 100, size=torch.Size((len(x), 5))),
    'rand_like by name': lambda x: torch.rand_like(input=x, dtype=torch.float64),
    'multinomial by name': lambda x: torch.multinomial(input=torch.ones(len(x), 50), num_samples=5),
    'rand_like': lambda x: torch.rand_like(x),
    'randint_like': lambda x: torch.randint_like(x, 100),
    'normal': lambda x: torch.normal(0.0, 1.0, size=(len(x), 5)),
    'normal of a tuple': lambda x: torch.normal(0.0, 1.0, (len(x), 5)),
    'multinomial': lambda x: torch.multinomial(torch.ones(len(x), 50), 5),
    'bernoulli': lambda x: torch.bernoulli(torch.full((len(x), 50), 0.5)),
    'method': lambda x: torch.full((len(x), 50), 0.5).bernoulli(),
}


@pytest.mark.parametrize('draw', DRAWS.values(), ids=DRAWS)
def test_rows_of_an_image_are_equal(draw):
    x = torch.zeros(6, 5)
    with SameDraws(T=2, images=3):
        drawn, another = draw(x), draw(torch.zeros(4, 5))
    first, second = drawn.chunk(2)
    assert torch.equal(first, second) and first.dtype == draw(x).dtype and first.shape[1:] == draw(x).shape[1:]
    # images differ, and so do other numbers of rows
    assert not torch.equal(first[0], first[1]) and not torch.equal(another[:2], another[2:])
    drawn = draw(x)
    assert not torch.equal(drawn[:3], drawn[3:])


def test_what_is_no_number_of_rows():
    with SameDraws(T=2, images=3):
        assert torch.rand(()).dim() == 0 and torch.rand(5, 6).shape == (5, 6) and torch.zeros(6, 2).sum() == 0
        assert torch.bernoulli(torch.tensor(1.0)) == 1
        out = torch.empty(6, 2)
        assert torch.rand(6, 2, out=out) is out and not torch.equal(out[:3], out[3:])
        # six is a bound here, and no number of rows
        assert torch.randint(6, (5, 4)).shape == (5, 4) and torch.randint(6, 9, size=(4, 2)).shape == (4, 2)
        assert torch.randint(6, ()).dim() == 0 and torch.randint(high=6, size=()).dim() == 0
