"""Run a detector, segmentor or classifier on one image; draw what it sees and, beside it, how often its neurons fire.

Example::

    python demo/image_demo.py cat.jpg configs/sakd/retinanet_sew34_coco.py work_dirs/retinanet_sew34_coco/epoch_12.pth
"""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch

from mmsnn import event_driven, get_time_steps, set_time_steps
from mmsnn.analysis import firing_rates
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options
from mmsnn.inference import load_batch, load_model
from mmsnn.neurons import Neuron

# does not need a display
matplotlib.use('Agg')


def draw_boxes(axes, boxes, labels, scores=None, classes=None) -> None:
    """Draw boxes ``[N, 4]`` (x1, y1, x2, y2 in pixels) with class and score, a colour a class, on a drawn image."""
    # libraries sort by score: the best is drawn last, on top
    for k, (x1, y1, x2, y2) in reversed(list(enumerate(boxes))):
        colour = plt.cm.tab10(int(labels[k]) % 10)
        axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.8))
        text = classes[labels[k]] if classes else str(int(labels[k]))
        text += '' if scores is None else f' {scores[k]:.2f}'
        style = dict(facecolor=colour, edgecolor='none', pad=1.0)
        axes.text(x1, y1, text, color='white', fontsize=7, va='bottom', bbox=style, clip_on=True)


def draw_result(axes, image: np.ndarray, sample, classes=None, score_thr: float = 0.3) -> None:
    """Draw ``image`` (RGB, ``[H, W, 3]``) and the result of mmdet, mmseg or mmpretrain in ``sample`` on it."""
    axes.imshow(image)
    axes.axis('off')
    if 'pred_instances' in sample:
        found = sample.pred_instances.cpu().numpy()
        found = found[found.scores > score_thr]
        for mask, label in zip(found.get('masks', ()), found.labels):
            axes.imshow(np.where(mask[..., None], plt.cm.tab10(int(label) % 10), 0.0), alpha=0.5)
        draw_boxes(axes, found.bboxes, found.labels, found.scores, classes)
        axes.set_title(f'{len(found)} detections above {score_thr:g}')
    elif 'pred_sem_seg' in sample:
        semantic = sample.pred_sem_seg.data[0].cpu().numpy()
        axes.imshow(semantic, alpha=0.5, cmap='tab20', vmin=0, vmax=19, interpolation='nearest')
        shown = np.unique(semantic)
        names = [classes[k] if classes else str(k) for k in shown]
        handles = [plt.Rectangle((0, 0), 1, 1, color=plt.cm.tab20(int(k) % 20)) for k in shown]
        axes.legend(handles, names, fontsize=7, loc='upper left', bbox_to_anchor=(0, 0), ncols=4, frameon=False)
    else:
        score = sample.pred_score.cpu()
        best = int(score.argmax())
        axes.set_title(f'{classes[best] if classes else best}: {score[best]:.2f}')


def draw_rates(axes, rates: dict[str, float], T: int) -> None:
    """Bars of the firing rates (spikes per neuron and time step), first layer on top."""
    names = list(rates)
    axes.barh(range(len(names)), rates.values(), color=plt.cm.viridis(np.linspace(0.15, 0.8, len(names))))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * max(rates.values()) or 1)
    axes.set_xlabel('spikes per neuron and time step')
    axes.set_title(f'Firing rates, T={T}')
    axes.spines[['top', 'right']].set_visible(False)


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
    parser.add_argument('config', help='of mmdet, mmseg or mmpretrain; of a distillation config the student is run')
    parser.add_argument('checkpoint', help='weights, a .pth file')
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/image_demo'))
    parser.add_argument('--T', type=int, help='time steps, where they should differ from the config')
    parser.add_argument('--score-thr', type=float, default=0.3, help='detections below are not drawn (default: 0.3)')
    parser.add_argument(
        '--engine', choices=('dense', 'event', 'auto'), default='dense', help='on a CPU: run on events (default: dense)'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    for path in (args.image, args.config, args.checkpoint):
        if '::' not in str(path) and not Path(path).is_file():
            parser.error(f'there is no file {str(path)!r}')
    return args


if __name__ == '__main__':
    print(f'saved {main(parse_args())}')
