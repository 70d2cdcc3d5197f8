"""Compare the saliency maps of a student and its teacher: gradient x input, Grad-CAM, and how well they agree."""

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger, print_log
from mmengine.registry import DATASETS, DefaultScope
from rich.console import Console
from rich.progress import track

import mmsnn
from mmsnn.analysis.saliency import KINDS, ROLES, ImageSaliency, compare
from mmsnn.building import build_model, is_distiller
from mmsnn.checkpoints.fitting import load_weights
from mmsnn.engine.checks import check_data
from mmsnn.engine.cli import read_config
from mmsnn.engine.options import add_cfg_options, positive
from mmsnn.refusals import run_main
from mmsnn.shipped import is_remote, local

# this backend needs no display
matplotlib.use('Agg')


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the student; a distillation config also names the teacher')
    parser.add_argument(
        'checkpoint', nargs='?', help='weights of the student (default: those that a training begins with)'
    )
    parser.add_argument('--teacher', metavar='CONFIG', help='config of the teacher, a file or mmsnn::PATH')
    parser.add_argument('--teacher-checkpoint', metavar='FILE', help='weights of the teacher')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--images', nargs='+', metavar='FILE', help='images, which the test pipeline prepares')
    source.add_argument(
        '--first', type=positive, default=8, metavar='N', help='use the first N test images (default: 8)'
    )
    parser.add_argument('--label', type=int, help="class to explain (default: the teacher's prediction)")
    parser.add_argument('--layer', default='backbone', help='layer of Grad-CAM (default: last map of the backbone)')
    parser.add_argument('--teacher-layer', metavar='LAYER', help="the teacher's layer of Grad-CAM (default: --layer)")
    parser.add_argument('--top', type=float, default=10, metavar='Q', help='percentage of pixels that are top pixels')
    parser.add_argument(
        '--boxes', type=positive, default=20, metavar='K', help='number of best boxes of a detector to explain'
    )
    parser.add_argument('--T', type=positive, metavar='N', help="the student's time steps, if not the config's")
    parser.add_argument('--out', type=Path, metavar='DIR', help='write saliency.json and a picture per image to DIR')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add_cfg_options(parser)
    parser.set_defaults(work_dir=None, launcher='none')
    return parser.parse_args(argv)


def find_teacher(cfg: Config, args: argparse.Namespace) -> tuple[str | dict, str | None, str]:
    """Config and checkpoint of the teacher, and the option or config key that names the checkpoint.

    Raises:
        ValueError: neither the command line nor the config names a teacher.
    """
    config, checkpoint, key = args.teacher, None, 'model.teacher_checkpoint'
    if config is None and is_distiller(cfg.model):
        config, checkpoint = cfg.model.get('teacher'), cfg.model.get('teacher_checkpoint')
        if config is None and cfg.model.get('teachers'):
            name, first = next(iter(cfg.model.teachers.items()))
            config, checkpoint, key = first.config, first.get('checkpoint'), f'model.teachers.{name}.checkpoint'
    if config is None:
        raise ValueError(f'{args.config} names no teacher: give its config, --teacher CONFIG')
    if args.teacher_checkpoint:
        checkpoint, key = args.teacher_checkpoint, '--teacher-checkpoint'
    return config, checkpoint, key


def build(cfg: Config, checkpoint: str | None, key: str) -> torch.nn.Module:
    """The model of a config, or the student of a distillation config, with the weights of ``checkpoint``.

    Without a checkpoint it is initialised as for training.

    Raises:
        FileNotFoundError: the checkpoint does not exist; the message names ``key`` and lists others in its folder.
        ValueError: the checkpoint does not fit, or could run code.
    """
    if checkpoint and not is_remote(checkpoint) and not Path(local(checkpoint)).is_file():
        there = ', '.join(sorted(path.name for path in Path(checkpoint).parent.glob('*.pth')))
        raise FileNotFoundError(
            f'{key}: there is no checkpoint at {checkpoint!r}; in {str(Path(checkpoint).parent)!r} there is '
            f'{there or "none"}'
        )
    model = build_model(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        if checkpoint is None:
            print_log(f'no {key}: the weights are those that training begins with', 'current', logging.WARNING)
            model.init_weights()
        else:
            load_weights(model, checkpoint, key, cfg=cfg.model)
    return model


def build_teacher(cfg: Config, args: argparse.Namespace) -> tuple[torch.nn.Module, dict]:
    """The teacher that command line or config names, and its config, if that is a file, and checkpoint."""
    config, checkpoint, key = find_teacher(cfg, args)
    named = dict(teacher_checkpoint=checkpoint)
    if isinstance(config, str):
        teacher_cfg = read_config(argparse.Namespace(**{**vars(args), 'config': config, 'cfg_options': None}))
        named['teacher'] = config
    else:
        teacher_cfg = Config(dict(model=config, default_scope=cfg.get('default_scope')))
    return build(teacher_cfg, checkpoint, key).to(args.device), named


def read_images(cfg: Config, files: list[str] | None, first: int) -> Iterator[dict]:
    """The ``files``, or the ``first`` images of the test dataset, after the test pipeline.

    Raises:
        ValueError: the config has no test dataset, or ``files`` are given and its pipeline reads no files.
    """
    if not cfg.get('test_dataloader'):
        raise ValueError('test_dataloader is missing in the config: its pipeline prepares the images')
    dataset = innermost = cfg.test_dataloader.dataset
    while 'dataset' in innermost:
        innermost = innermost.dataset
    if not files:
        check_data(cfg, ('test',))
        built = DATASETS.build(dataset)
        yield from (built[i] for i in range(min(first, len(built))))
        return
    if not from_files(cfg):
        raise ValueError('the test pipeline of the config loads no image files: use --first instead of --images')
    pipeline = Compose([step for step in innermost.pipeline if 'Annotations' not in str(step['type'])])
    yield from (pipeline(dict(img_path=file, img_id=i, sample_idx=i)) for i, file in enumerate(files))


def from_files(cfg: Config) -> bool:
    """Whether images are read from files, and so are BGR; datasets in memory hold RGB."""
    return 'LoadImage' in str(cfg.test_dataloader.dataset)


def picture(inputs: torch.Tensor, bgr: bool) -> np.ndarray:
    """An image ``[3, H, W]`` as RGB ``[H, W, 3]``; for other inputs, such as event frames, their sum in grey."""
    if inputs.shape[0] == 3 and inputs.dim() == 3:
        image = inputs.permute(1, 2, 0).numpy()
        return image[..., ::-1] if bgr else image
    total = inputs.float().flatten(0, -3).sum(0)
    return (255 * total / total.max().clamp(min=1)).byte()[..., None].expand(-1, -1, 3).numpy()


def name_of(item: dict, number: int) -> str:
    """Name of an image without its suffix, or its number."""
    return Path(item['data_samples'].metainfo.get('img_path') or f'image{number}').stem


def overlay(axes, grey: np.ndarray, heat: np.ndarray, title: str) -> None:
    """Draw a saliency map over a grey image, clipped at its 99.5 % quantile; large values are more opaque."""
    peak = np.quantile(heat, 0.995) or heat.max() or 1.0
    heat = np.clip(heat / peak, 0, 1)
    axes.imshow(grey, cmap='gray', vmin=0, vmax=255)
    axes.imshow(heat, cmap='inferno', vmin=0, vmax=1, alpha=0.35 + 0.65 * heat)
    axes.set_title(title, fontsize=9)
    axes.axis('off')


def draw(image: np.ndarray, saliency: ImageSaliency, path: Path) -> None:
    """Draw an image (RGB, ``[H, W, 3]``) and its four saliency maps side by side, with their figures above."""
    height, width = image.shape[:2]
    size = 3.2  # inches per panel
    figure, axes = plt.subplots(1, 5, figsize=(5 * size, size * height / width + 0.9), layout='constrained')
    axes[0].imshow(image)
    axes[0].axis('off')
    axes[0].set_title(f'{saliency.name}\nexplained:\n{saliency.explained}', fontsize=9)
    panels, grey = iter(axes[1:]), image.mean(-1)
    for kind, title in KINDS.items():
        cosine, spearman, iou, student_drop, teacher_drop = saliency.figures[kind].cells()
        agreement = f'cosine {cosine}, Spearman {spearman}, IoU {iou}'
        below = dict(
            teacher=f"erased, the student's p drops {student_drop}",
            student=f"erased, the teacher's p drops {teacher_drop}\n{agreement}",
        )
        for role in ROLES:
            heading = f'{role} (p {saliency.probability[role]:.3f}), {title}\n{below[role]}'
            overlay(next(panels), grey, saliency.maps[kind][role].numpy(), heading)
    figure.savefig(path, dpi=110, bbox_inches='tight')
    plt.close(figure)


def main(argv=None):
    """Run the command line ``argv`` (default: ``sys.argv``); returns the report."""
    args = parse_args(argv)
    torch.manual_seed(0)
    # mmengine would otherwise report every parameter that it initialises
    MMLogger.get_instance('saliency', log_level='WARNING')
    cfg = read_config(args)
    teacher, named = build_teacher(cfg, args)
    student = build(cfg, args.checkpoint, 'checkpoint').to(args.device)
    if args.T is not None:
        mmsnn.set_time_steps(student, args.T)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        items = list(read_images(cfg, args.images, args.first))
        report = compare(
            teacher,
            student,
            (pseudo_collate([item]) for item in track(items, 'comparing')),
            label=args.label,
            layer=args.layer,
            teacher_layer=args.teacher_layer,
            top=args.top,
            boxes=args.boxes,
            names=[name_of(item, i) for i, item in enumerate(items)],
        )
    Console(width=None if Console().is_terminal else 160).print(report.table())
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        networks = dict(config=args.config, checkpoint=args.checkpoint, **named)
        (args.out / 'saliency.json').write_text(json.dumps(networks | report.as_dict(), indent=1))
        for i, (item, saliency) in enumerate(zip(items, report.images)):
            draw(picture(item['inputs'], from_files(cfg)), saliency, args.out / f'{i:03d}_{saliency.name}.png')
        print(f'saved in {args.out}')
    return report


if __name__ == '__main__':
    run_main(main)
