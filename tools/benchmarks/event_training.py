"""Time a convolution of spikes in training, forward and backward, on events against the dense one, by density.

Both sides keep their spikes packed and compute the dense gradient of the input; the time to count the spikes belongs to
the side on events. `mmsnn.ops.packed_conv` takes its limits from the result.

Example::

    python tools/benchmarks/event_training.py --out tools/benchmarks/results/event_training_cpu.json
"""

import argparse
from pathlib import Path

import torch

from mmsnn.analysis import pairing
from mmsnn.ops import packed_conv
from mmsnn.refusals import run_main

# inputs, outputs, kernel, side of the maps, images: the convolutions of CIFAR's and ImageNet's ResNets
SHAPES = [
    (16, 16, 3, 32, 64),
    (32, 32, 3, 16, 64),
    (64, 64, 3, 8, 64),
    (64, 64, 3, 56, 4),
    (128, 128, 3, 28, 8),
    (256, 256, 3, 14, 16),
    (512, 512, 3, 7, 16),
    (64, 256, 1, 56, 4),
    (512, 512, 1, 14, 16),
]
EVENTS = 'on events'


def run_case(shape: tuple[int, ...], density: float, rounds: int) -> dict:
    """Times of both sides at one shape and density."""
    inputs, outputs, kernel, side, images = shape
    last = dict(memory_format=torch.channels_last)
    x = (torch.rand(images, inputs, side, side) < density).float().contiguous(**last).requires_grad_()
    weight = (torch.randn(outputs, inputs, kernel, kernel) / kernel).contiguous(**last).requires_grad_()
    padding = (kernel // 2,) * 2
    grad = torch.randn(images, outputs, side, side).contiguous(**last)

    def step(events: bool):
        def run():
            x.grad = weight.grad = None
            packed_conv.packed_conv2d(x, weight, padding=padding, events=events).backward(grad)

        return pairing.stopwatch(run)

    sides = {EVENTS: step(True), 'dense': step(False)}
    return dict(shape=shape, density=density, table=pairing.compare(pairing.interleave(sides, rounds), EVENTS))


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--densities', nargs='+', type=float, default=[0.02, 0.05, 0.1, 0.15, 0.25])
    parser.add_argument('--shapes', type=int, default=len(SHAPES), metavar='N', help='only the first N shapes')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, help='write the results as JSON')
    args = parser.parse_args(argv)
    # whether it pays is what is measured
    packed_conv.DENSEST, packed_conv.SMALLEST, packed_conv.NARROWEST = 1.0, 1, 1
    torch.manual_seed(0)
    results = []
    print('inputs, outputs, kernel, side, images: times that the dense convolution takes longer, by density')
    for shape in SHAPES[: args.shapes]:
        cases = [run_case(shape, density, args.rounds) for density in args.densities]
        results += cases
        row = (f'{case["density"]:.0%}: {case["table"]["dense"]["ratio"]["median"]:.2f}' for case in cases)
        print(f'{shape!s:26}', '  '.join(row), flush=True)
    if args.out:
        pairing.save(args.out, pairing.circumstances(), results)


if __name__ == '__main__':
    run_main(main)
