"""The encoder before, and the readout behind a spiking network."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn

from mmsnn.distill import transfer_weights
from mmsnn.layers import TEBN, DirectEncoder, PoissonEncoder, Readout, fold, unfold


class TestDirectEncoder:
    def test_vmap(self):
        x = torch.rand(3, 2, 4, 5)
        found = torch.vmap(lambda image: DirectEncoder(2)(image[None])[1])(x)
        assert torch.equal(found, x)

    @pytest.mark.parametrize('T', [1, 4])
    def test_image_is_repeated(self, T):
        x = torch.randn(3, 2, 5, 5)
        out = DirectEncoder(T)(x)
        assert out.shape == (T * 3, 2, 5, 5)
        assert all(torch.equal(step, x) for step in unfold(out, T))

    def test_event_frames_keep_their_steps(self):
        x = torch.randn(3, 4, 2, 5, 5)
        out = DirectEncoder(4)(x)
        for t in range(4):
            for b in range(3):
                assert torch.equal(out[t * 3 + b], x[b, t])

    def test_gradient_is_the_sum_over_steps(self):
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        weights = torch.randn(5 * 2, 3, 4, 4)
        (DirectEncoder(5)(x) * weights).sum().backward()
        torch.testing.assert_close(x.grad, unfold(weights, 5).sum(0))

    def test_repeat_behind_a_stem(self):
        encoder, norm = DirectEncoder(3), torch.nn.Conv2d(2, 4, 3)
        x = torch.randn(2, 2, 5, 5)
        torch.testing.assert_close(encoder.repeat(norm(x)), norm(encoder(x)))

    @pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
    def test_compiled(self, memory_format):
        """Another way to the same numbers in the same order of memory."""
        encoder = DirectEncoder(3)
        compiled = torch.compile(encoder, dynamic=True, fullgraph=True, backend='eager')
        for x in (torch.randn(2, 3, 5, 6).contiguous(memory_format=memory_format), torch.randn(2, 3, 2, 5, 6)):
            expected, found = encoder(x), compiled(x)
            assert torch.equal(found, expected) and found.stride() == expected.stride()

    def test_errors(self):
        with pytest.raises(
            ValueError, match=r'\(2, 3, 2, 5, 5\) hold 3 time steps, the backbone has T=4: set backbone.T'
        ):
            DirectEncoder(4)(torch.zeros(2, 3, 2, 5, 5))
        for shape in ((2, 3, 4), (1, 2, 4, 2, 5, 5)):
            with pytest.raises(ValueError, match='expected images.*or event frames'):
                DirectEncoder(4)(torch.zeros(shape))
        with pytest.raises(ValueError, match='T must be at least 1'):
            DirectEncoder(0)


class TestPoissonEncoder:
    def test_rate_is_the_intensity(self):
        x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 1.3, -0.2]).view(1, 7, 1, 1).expand(2, 7, 40, 50)
        out = unfold(PoissonEncoder(5)(x), 5)
        assert out.shape == (5, 2, 7, 40, 50) and ((out == 0) | (out == 1)).all()
        # 20,000 draws each: the standard deviation is at most 0.0035
        expected = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 1.0, 0.0])
        torch.testing.assert_close(out.mean((0, 1, 3, 4)), expected, atol=0.015, rtol=0)

    def test_steps_images_and_pixels_are_independent(self):
        out = unfold(PoissonEncoder(3)(torch.full((2, 1, 100, 100), 0.5)), 3)
        rows = out.transpose(0, 1).reshape(6, -1)
        correlations = torch.corrcoef(torch.cat([rows, rows[:1].roll(1, 1)])) - torch.eye(7)
        assert correlations.abs().max() < 0.04

    def test_normalisation_is_undone(self):
        pixels = torch.rand(2, 3, 8, 8)
        mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        shifted = (255 * pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        assert torch.equal(PoissonEncoder(4, mean, std)(shifted), PoissonEncoder(4)(pixels))
        with pytest.raises(ValueError, match='by mean and std'):
            PoissonEncoder(4, mean=mean)

    def test_stream(self):
        """Every call in training differs; seeds differ; no other random number is used or counts."""
        x = torch.full((2, 1, 8, 8), 0.5)
        state, one, two = torch.get_rng_state(), PoissonEncoder(4), PoissonEncoder(4)
        first, second = one(x), one(x)
        assert torch.equal(torch.get_rng_state(), state) and not torch.equal(first, second)
        torch.manual_seed(7)
        assert torch.equal(two(x), first) and not torch.equal(PoissonEncoder(4, seed=1)(x), first)
        one.eval()
        assert torch.equal(one(x), one(x)) and not torch.equal(one(x), first)
        assert torch.equal(one.train()(x), (two(x), two(x))[1])

    def test_resumes_exactly(self):
        """Through mmengine's functions, which walk over the modules themselves."""
        x, model = torch.full((2, 1, 8, 8), 0.5), nn.Sequential(PoissonEncoder(4), nn.Conv2d(1, 2, 3))
        model(x)
        state = copy.deepcopy(get_state_dict(model))
        resumed = nn.Sequential(PoissonEncoder(4), nn.Conv2d(1, 2, 3))
        load_state_dict(resumed, state, strict=True)
        assert torch.equal(resumed[0](x), model[0](x))
        assert all(isinstance(v, torch.Tensor) for v in state.values())

    def test_loads_without_a_state(self):
        direct, poisson = (nn.Sequential(e, nn.Conv2d(1, 2, 3)) for e in (DirectEncoder(4), PoissonEncoder(4)))
        poisson[0].calls = 3
        poisson.load_state_dict(direct.state_dict(), strict=True)
        load_state_dict(poisson, direct.state_dict(), strict=True)
        assert poisson[0].calls == 0

    def test_counts_for_nothing_in_a_transfer(self):
        snn = nn.Module()
        snn.backbone = nn.Sequential(PoissonEncoder(4), nn.Conv2d(1, 2, 3))
        ann = nn.Module()
        ann.backbone = nn.Sequential(nn.Identity(), nn.Conv2d(1, 2, 3))
        report = transfer_weights(ann, snn, verbose=False)
        assert len(report.matched) == 2 and not report.missing

    def test_event_frames_keep_their_steps(self):
        x = torch.randn(3, 4, 2, 5, 5)
        assert torch.equal(PoissonEncoder(4)(x), DirectEncoder(4)(x))

    def test_is_not_the_same_every_step(self):
        assert DirectEncoder(4).same_every_step and not PoissonEncoder(4).same_every_step

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_type_stays(self, dtype):
        assert PoissonEncoder(4)(torch.rand(2, 1, 4, 4, dtype=dtype)).dtype == dtype


class TestReadout:
    def test_mean_is_the_rate(self):
        x = torch.randn(4, 3, 2, 5)
        torch.testing.assert_close(Readout(4)(fold(x)), sum(x) / 4)

    def test_none_leaves_time(self):
        x = torch.randn(12, 2)
        assert torch.equal(Readout(4, 'none')(x), x)

    def test_errors(self):
        with pytest.raises(ValueError, match="readout must be one of mean, none, got 'last'"):
            Readout(4, 'last')
        with pytest.raises(ValueError, match='T=4 does not divide'):
            Readout(4)(torch.zeros(6, 2))


def test_layers_that_mix_time_see_every_step():
    """Also where they are inside of what stands for the convolution; by hand: factors 1 and 3 in evaluation mode."""
    norm = TEBN(1, T=2).eval()
    norm.p.data[:] = torch.tensor([1.0, 3.0])
    stem = nn.Sequential(nn.Identity(), norm)
    seen = []
    stem.register_forward_hook(lambda *args: seen.append(len(args[-1])))
    encoder, x = DirectEncoder(2), torch.ones(3, 1, 2, 2)
    out = encoder.after_stem(x, stem)
    assert seen == [6] and torch.allclose(out[3:], 3 * out[:3]) and out[:3].abs().min() > 0
    still = nn.BatchNorm2d(1).eval()
    assert torch.equal(*encoder.after_stem(x, nn.Sequential(nn.Identity(), still)).chunk(2))
