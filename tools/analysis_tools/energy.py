"""Count synaptic operations and energy of a config's model on images or on noise."""

import argparse
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import mmcv
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console

import mmsnn
from mmsnn.analysis import count_energy
from mmsnn.analysis.energy import EnergyReport
from mmsnn.building import build_model, image_size
from mmsnn.checkpoints.fitting import load_weights
from mmsnn.engine.cli import read_config
from mmsnn.engine.images import fault
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.layers import get_time_steps, image_channels
from mmsnn.models import EventDataPreprocessor
from mmsnn.refusals import run_main

SAMPLES = dict(mmdet='DetDataSample', mmseg='SegDataSample', mmpretrain='DataSample')


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH; of a distillation config, the student is counted')
    parser.add_argument('checkpoint', nargs='?', help='weights; without them weights and spikes are random')
    parser.add_argument('--images', nargs='+', metavar='FILE', help='images, resized to --shape; default: noise')
    parser.add_argument('--shape', nargs=2, type=positive, metavar=('H', 'W'), help="in pixels; default: the config's")
    parser.add_argument('--T', type=positive, metavar='N', help="time steps, if not the config's")
    parser.add_argument('--out', metavar='FILE.json', help='also write the report to FILE.json')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    return parser.parse_args(argv)


def build(cfg: Config, checkpoint: str | None) -> torch.nn.Module:
    """The model of a config, or the student of a distillation config, with the weights of ``checkpoint`` if given."""
    model = build_model(cfg)
    if checkpoint:
        load_weights(model, checkpoint, cfg=cfg.model)
    return model


def batch(model: torch.nn.Module, scope: str, images: list[str] | None, shape: tuple[int, int]) -> dict:
    """One batch in the form of the data loaders of the task library ``scope``.

    Without ``images`` it is noise: uniform pixels, or event frames with Poisson counts of one event per pixel.

    Raises:
        ValueError: an image cannot be read, or ``images`` are given for a network that takes event frames.
    """
    events = isinstance(model.data_preprocessor, EventDataPreprocessor)
    if images and events:
        raise ValueError('--images: this network takes event frames; leave the option out to use noise of events')
    if images:
        for path in images:
            if wrong := fault(path):
                raise ValueError(f'--images: {path} cannot be read: {wrong}')
        inputs = [torch.from_numpy(mmcv.imresize(mmcv.imread(f), shape[::-1])).permute(2, 0, 1) for f in images]
    elif events:
        inputs = [torch.poisson(torch.ones(get_time_steps(model), image_channels(model), *shape))]
    else:
        inputs = [torch.randint(0, 256, (image_channels(model), *shape), dtype=torch.uint8)]
    sample = getattr(import_module(f'{scope}.structures'), SAMPLES[scope])
    meta = dict(img_id=0, img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    data = dict(inputs=inputs, data_samples=[sample(metainfo=meta) for _ in inputs])
    if scope == 'mmpretrain':
        # mmpretrain's models take a stacked batch
        data['inputs'] = torch.stack(inputs)
    return data


def remark(args: argparse.Namespace) -> str:
    """A warning about weights and inputs that do not give the figures of a trained network; empty if not needed."""
    sentences = []
    if not args.checkpoint:
        sentences.append(
            'The weights are random, because no checkpoint was given: the firing rates, and so the energy, are not '
            'those of a trained network.'
        )
    if not args.images:
        sentences.append('The input is noise, because no --images were given.')
    return ' '.join(sentences)


def main(argv=None) -> EnergyReport:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the report."""
    args = parse_args(argv)
    torch.manual_seed(0)
    cfg = read_config(args)
    init_default_scope(cfg.default_scope)
    model = build(cfg, args.checkpoint)
    if args.T is not None:
        mmsnn.set_time_steps(model, args.T)
    size = tuple(args.shape) if args.shape else image_size(cfg)
    report = count_energy(model, batch(model, cfg.default_scope, args.images, size))
    report = replace(report, remark=remark(args))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(report.table())
    if report.comparison:
        console.print(report.comparison.table())
    if args.out:
        Path(args.out).write_text(json.dumps(report.as_dict(), indent=1))
    return report


if __name__ == '__main__':
    run_main(main)
