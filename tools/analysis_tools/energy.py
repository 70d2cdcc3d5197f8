"""Count synaptic operations and energy of a config's model on given images, or on noise."""

import argparse
import json
from importlib import import_module
from pathlib import Path

import mmcv
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console

import mmsnn
from mmsnn.analysis import count_energy
from mmsnn.engine.checkpoint import load_state
from mmsnn.engine.cli import is_distiller
from mmsnn.engine.loading import check_match

SAMPLES = dict(mmdet='DetDataSample', mmseg='SegDataSample', mmpretrain='DataSample')


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file; of a distillation config, the student is counted')
    parser.add_argument('checkpoint', nargs='?', help='without one the weights, and so the spikes, are random')
    parser.add_argument('--images', nargs='+', metavar='FILE', help='images, resized to --shape; default: noise')
    parser.add_argument('--shape', nargs=2, type=int, default=(224, 224), metavar=('H', 'W'), help='in pixels')
    parser.add_argument('--T', type=int, metavar='N', help='time steps, if not those of the config')
    parser.add_argument('--out', metavar='FILE.json', help='write the report there as well')
    return parser.parse_args(argv)


def build(cfg: Config, checkpoint: str | None) -> torch.nn.Module:
    """The (student) model, with the weights of ``checkpoint`` where there is one."""
    init_default_scope(cfg.default_scope)
    model_cfg = cfg.model.student if is_distiller(cfg.model) else cfg.model
    if 'data_preprocessor' in cfg:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    if checkpoint:
        state = load_state(checkpoint)
        check_match(model, state, checkpoint)
        model.load_state_dict(state, strict=False)
    return model


def batch(scope: str, images: list[str] | None, shape: tuple[int, int]) -> dict:
    """One data batch of the task library ``scope``, as its data loaders give them."""
    if images:
        pixels = [torch.from_numpy(mmcv.imresize(mmcv.imread(f), shape[::-1])).permute(2, 0, 1) for f in images]
    else:
        pixels = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8)]
    sample = getattr(import_module(f'{scope}.structures'), SAMPLES[scope])
    meta = dict(img_id=0, img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    return dict(inputs=pixels, data_samples=[sample(metainfo=meta) for _ in pixels])


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    args = parse_args(argv)
    torch.manual_seed(0)
    cfg = Config.fromfile(args.config)
    model = build(cfg, args.checkpoint)
    if args.T is not None:
        mmsnn.set_time_steps(model, args.T)
    inputs = batch(cfg.default_scope, args.images, tuple(args.shape))
    if cfg.default_scope == 'mmpretrain':
        # its models take a batch that the loader has stacked
        inputs['inputs'] = torch.stack(inputs['inputs'])
    report = count_energy(model, inputs)
    Console(width=None if Console().is_terminal else 140).print(report.table())
    if args.out:
        Path(args.out).write_text(json.dumps(report.as_dict(), indent=1))


if __name__ == '__main__':
    main()
