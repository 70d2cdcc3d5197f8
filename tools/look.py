"""Draw what a spiking network predicts for an image, and where and when its neurons fire, in a PNG or HTML file."""

import argparse
import base64
import html
import io
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import mmcv
import torch

import mmsnn
from mmsnn.analysis import firing_rates
from mmsnn.checkpoints.task_models import load_batch, load_model
from mmsnn.engine.cli import read_config
from mmsnn.engine.images import fault
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.neurons import Neuron
from mmsnn.refusals import run_main
from mmsnn.visualize import draw_rates, draw_result, membrane, raster, rate_map, rate_over_time

# number of layers, spread over the network, whose firing rates are drawn as maps and over time
LAYERS = 4
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1rem; }}
img {{ width: 100%; height: auto; }} div {{ overflow-x: auto; }} p {{ overflow-wrap: anywhere; }}
td, th {{ padding: 0 1rem 0 0; text-align: left; }}
</style></head><body><h1>{title}</h1><p>{said}</p><img alt="{title}" src="data:image/png;base64,{picture}">
<h2>Firing rates</h2><div><table><tr><th>layer</th><th>spikes per neuron and step</th><th>silent channels</th></tr>
{rows}</table></div></body></html>
"""


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH; of a distillation config, the student is run')
    parser.add_argument('checkpoint', help='its weights, a .pth file or mmsnn://NAME')
    parser.add_argument('image', type=Path, help='image file')
    parser.add_argument('--out', type=Path, metavar='FILE', help='.png or .html (default: work_dirs/look/IMAGE.png)')
    parser.add_argument(
        '--layer',
        metavar='NAME',
        help='neurons whose spikes and membrane potentials are drawn (default: the middle ones)',
    )
    parser.add_argument('--T', type=positive, metavar='N', help="time steps, if not the config's")
    parser.add_argument('--score-thr', type=float, default=0.3, help='detections below are not drawn (default: 0.3)')
    parser.add_argument('--device', default='cpu', help='as torch names it (default: cpu)')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    args = parser.parse_args(argv)
    args.out = args.out or Path('work_dirs/look', f'{args.image.stem}.png')
    if args.out.suffix not in ('.png', '.html'):
        parser.error(f'--out: the file must end with .png or .html, got {str(args.out)!r}')
    if not args.image.is_file():
        parser.error(f'there is no image {str(args.image)!r}')
    if wrong := fault(str(args.image)):
        parser.error(f'{args.image} cannot be read: {wrong}')
    return args


def draw(model, batch: dict, image, args: argparse.Namespace):
    """The figure of a prediction and of the network's activity."""
    neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
    if not neurons:
        raise ValueError(f'{args.config}: this network has no spiking neurons to look at')
    names = list(neurons)
    shown = [names[round(k * (len(names) - 1) / (LAYERS - 1))] for k in range(LAYERS)] if len(names) > LAYERS else names
    layer = args.layer or names[len(names) // 2]
    watched = mmsnn.record(model, *dict.fromkeys(shown))
    in_detail = mmsnn.record(model, layer, what=('spikes', 'v'))
    with torch.no_grad(), watched as spikes, in_detail as detail:
        sample = model.test_step(batch)[0]
    first = {name: spikes.calls(name)[0] for name in dict.fromkeys(shown)}
    name = next(iter(detail))
    fired, v = (detail.calls(name, what)[0] for what in ('spikes', 'v'))
    figure = plt.figure(figsize=(15, 13), layout='constrained')
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(4, 3, 4))
    for_result, for_rates = top.subplots(1, 2, width_ratios=(1, 2))
    draw_result(for_result, image, sample, model.classes, args.score_thr)
    draw_rates(for_rates, firing_rates(model, batch), mmsnn.get_time_steps(model))
    for axes, (each, values) in zip(middle.subplots(1, len(first), squeeze=False)[0], first.items()):
        axes.set_title(each, fontsize=8)
        if values.dim() == 5:
            rate_map(axes, values, image)
        else:
            axes.axis('off')
    for_spikes, for_potentials, over_time = bottom.subplots(1, 3)
    raster(for_spikes, fired).set_title(f'spikes of {name}', fontsize=8)
    membrane(for_potentials, v, neurons[name].settings.v_threshold, spikes=fired)
    for_potentials.set_title(f'membrane potentials of {name}', fontsize=8)
    rate_over_time(over_time, first).set_title('firing rate over time', fontsize=8)
    return figure


def main(argv=None) -> Path:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the path of the file."""
    args = parse_args(argv)
    # this backend needs no display
    matplotlib.use('Agg')
    model = load_model(read_config(args), args.checkpoint, args.device)
    if args.T is not None:
        mmsnn.set_time_steps(model, args.T)
    batch = load_batch(model.cfg, args.image)
    figure = draw(model, batch, mmcv.imread(str(args.image), channel_order='rgb'), args)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == '.png':
        args.out.write_bytes(picture.getvalue())
    else:
        rates = firing_rates(model, batch)
        rows = ''.join(
            f'<tr><td>{html.escape(name)}</td><td>{layer.rate:.4f}</td>'
            f'<td>{layer.silent_channels} of {layer.channels}</td></tr>\n'
            for name, layer in rates.layers.items()
        )
        said = f'{args.config}, {args.checkpoint}; T={mmsnn.get_time_steps(model)}, mean firing rate {rates.mean:.4f}'
        content = base64.b64encode(picture.getvalue()).decode()
        title, said = html.escape(args.image.name), html.escape(said)
        args.out.write_text(PAGE.format(title=title, said=said, picture=content, rows=rows), encoding='utf-8')
    print(f'saved {args.out}')
    return args.out


if __name__ == '__main__':
    run_main(main)
