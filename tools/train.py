"""Train a detector, segmentor or classifier, with or without distillation."""

import argparse

from mmengine.device import get_device
from mmengine.hooks import Hook

from mmsnn.building import is_distiller, type_name
from mmsnn.engine import checks
from mmsnn.engine.cli import add_arguments, build_runner, read_config
from mmsnn.engine.resuming import prepare_resume
from mmsnn.engine.safety import disk_errors_named, make_safe
from mmsnn.engine.work_dir import WorkDir
from mmsnn.parts import parts_named
from mmsnn.refusals import run_main
from mmsnn.report import add_hook


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH for one that comes with mmsnn')
    add_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the latest checkpoint in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision, on a CPU in bfloat16')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    parser.add_argument('--seed', type=int, help='seed of all random numbers')
    return parser.parse_args(argv)


def use_amp(wrapper) -> None:
    """Make the optimizer's ``wrapper`` train in mixed precision, on a CPU in bfloat16.

    Raises:
        ValueError: the config has another type of wrapper.
    """
    kind = type_name(wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        raise ValueError(f'--amp replaces optim_wrapper.type OptimWrapper, but the config has {wrapper.type!r}')
    if get_device() != 'cpu':
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    wrapper.type = 'mmsnn.CPUAmpOptimWrapper'
    wrapper.pop('loss_scale', None)


def prepare(cfg, args: argparse.Namespace):
    """Apply the options to ``cfg``, add mmsnn's hooks, and return it.

    Raises:
        ValueError: an option does not fit the config, or ``custom_hooks`` is no list.
    """
    if args.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        use_amp(cfg.optim_wrapper)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config')
        cfg.auto_scale_lr.enable = True
    hooks = cfg.get('custom_hooks') or []
    if not isinstance(hooks, (list, tuple)) or not all(isinstance(hook, (dict, Hook)) for hook in hooks):
        raise ValueError(f'custom_hooks: must be a list of dicts, got {hooks}')
    hooks = list(hooks)
    wanted = ['TimeFoldingHook', 'FiringRateHook'] + ['DistillHook'] * is_distiller(cfg.model)
    missing = [name for name in wanted if not any(name in str(hook.get('type')) for hook in hooks)]
    cfg.custom_hooks = hooks + [dict(type=f'mmsnn.{name}') for name in missing]
    add_hook(cfg)
    return make_safe(cfg)


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    args = parse_args(argv)
    cfg = prepare(read_config(args), args)
    prepare_resume(cfg)
    findings = checks.check_data(cfg, ('train', 'val'))
    with WorkDir(cfg) as work_dir:
        runner = build_runner(cfg, args.verbose)
        runner.register_hook(work_dir)
        checks.log(findings, runner.logger)
        with disk_errors_named(cfg), parts_named(cfg):
            runner.train()


if __name__ == '__main__':
    run_main(main)
