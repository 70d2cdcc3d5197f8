"""Run a detector, segmentor or classifier on one image; draw what it sees and, beside it, how often its neurons fire.

Example::

    python demo/image_demo.py cat.jpg configs/sakd/retinanet_sew34_coco.py work_dirs/retinanet_sew34_coco/epoch_12.pth
"""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import mmcv
import torch

from mmsnn import event_driven, get_time_steps, set_time_steps
from mmsnn.analysis import firing_rates
from mmsnn.checkpoints.task_models import load_batch, load_model
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.neurons import Neuron
from mmsnn.refusals import run_main
from mmsnn.visualize import draw_rates, draw_result

# this backend needs no display
matplotlib.use('Agg')


def main(args: argparse.Namespace) -> Path:
    """Run the demo; returns the path of the picture."""
    model = load_model(read_config(args), args.checkpoint, args.device)
    if args.T is not None:
        set_time_steps(model, args.T)
    if args.engine != 'dense':
        event_driven(model, engine=args.engine)
    batch = load_batch(model.cfg, args.image)
    with torch.no_grad():
        sample = model.test_step(batch)[0]
    spiking = any(isinstance(m, Neuron) for m in model.modules())
    figure, axes = plt.subplots(1, 1 + spiking, figsize=(12 if spiking else 7, 6), squeeze=False, layout='constrained')
    draw_result(axes[0, 0], mmcv.imread(args.image, channel_order='rgb'), sample, model.classes, args.score_thr)
    if spiking:
        draw_rates(axes[0, 1], firing_rates(model, batch), get_time_steps(model))
    args.out_dir.mkdir(parents=True, exist_ok=True)
    path = args.out_dir / f'{args.image.stem}.png'
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('image', type=Path)
    parser.add_argument(
        'config', help='config of mmdet, mmseg or mmpretrain; of a distillation config, the student is run'
    )
    parser.add_argument('checkpoint', help='weights: a .pth file, an address, or mmsnn://NAME')
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/image_demo'))
    parser.add_argument('--T', type=positive, help="time steps, if not the config's")
    parser.add_argument('--score-thr', type=float, default=0.3, help='detections below are not drawn (default: 0.3)')
    parser.add_argument(
        '--engine',
        choices=('dense', 'event', 'auto'),
        default='dense',
        help='event and auto compute convolutions on a CPU from spikes only (default: dense)',
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    for path in (args.image, args.config, args.checkpoint):
        # mmsnn:: is a config that comes with a library, and mmsnn:// weights
        if '::' not in str(path) and '://' not in str(path) and not Path(path).is_file():
            parser.error(f'there is no file {str(path)!r}')
    return args


if __name__ == '__main__':
    print(f'saved {run_main(lambda: main(parse_args()))}')
