"""Test a detector, segmentor or classifier, and measure its speed, memory, firing rates and energy."""

import argparse
import json
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.model import BaseTTAModel, is_model_wrapper
from rich.console import Console

import mmsnn
from mmsnn.analysis import benchmark
from mmsnn.building import use_student
from mmsnn.checkpoints.claims import require_file
from mmsnn.engine import checks
from mmsnn.engine.cli import add_arguments, build_runner, read_config
from mmsnn.engine.early_exit import check
from mmsnn.engine.options import positive
from mmsnn.engine.testing import ProgressBar, draw_results, use_tta
from mmsnn.engine.time_steps import sweep_exits, sweep_time_steps
from mmsnn.engine.work_dir import try_writing
from mmsnn.parts import parts_named
from mmsnn.refusals import run_main
from mmsnn.report import add_hook, rewrite
from mmsnn.shipped import is_remote


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmsnn::PATH; of a distillation config, the student is tested')
    parser.add_argument('checkpoint', help='checkpoint file, URL or mmsnn://NAME (mmsnn list weights)')
    add_arguments(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to FILE.pkl')
    parser.add_argument('--show', action='store_true', help='draw the predictions in a window')
    parser.add_argument('--show-dir', metavar='FOLDER', help='draw the predictions into FOLDER')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window stays open')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--T',
        type=positive,
        nargs='+',
        metavar='N',
        help="time steps, if not the config's; for several numbers, print accuracy, energy and time of each",
    )
    parser.add_argument(
        '--exit-confidence',
        type=float,
        nargs='+',
        metavar='P',
        help='classifiers: stop an image at the time step at which its largest score reaches P; print accuracy, mean '
        'number of steps and time for each P',
    )
    parser.add_argument(
        '--engine',
        choices=('dense', 'event', 'auto'),
        default='dense',
        help='event: on a CPU, compute convolutions after neurons from spikes only; auto: only if these are sparse',
    )
    parser.add_argument(
        '--benchmark',
        action='store_true',
        help='also measure speed, memory, firing rates, synaptic operations and energy, and write benchmark.json',
    )
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error('--out: the file must end with .pkl')
    if args.benchmark and (args.tta or args.launcher != 'none'):
        parser.error('--benchmark measures one model in one process: leave out --tta and --launcher')
    single = [name for name in ('benchmark', 'out', 'show', 'show_dir', 'tta') if getattr(args, name)]
    single += ['launcher'] * (args.launcher != 'none')
    if several(args) and single:
        parser.error(f'{several(args)} tests several times in one process: leave out --{single[0].replace("_", "-")}')
    if args.exit_confidence and len(args.T or ()) > 1:
        parser.error('--exit-confidence chooses the number of time steps itself: give one --T, the largest')
    if args.exit_confidence and args.engine != 'dense':
        parser.error('--exit-confidence runs step by step, which has no form on events: leave out --engine')
    if any(not 0 < p <= 1 for p in args.exit_confidence or ()):
        parser.error('--exit-confidence must be above 0 and at most 1')
    return args


def several(args: argparse.Namespace) -> str:
    """The option because of which the test set is run several times; empty if it is run once."""
    return '--exit-confidence' if args.exit_confidence else '--T with several numbers' if len(args.T or ()) > 1 else ''


def prepare(cfg: Config, args: argparse.Namespace) -> Config:
    """Apply the options to ``cfg`` and return it."""
    cfg.load_from = args.checkpoint
    cfg.resume = False
    # a model trained with FSDP is tested unsharded
    for key in ('runner_type', 'strategy'):
        cfg.pop(key, None)
    if not several(args):
        # this comes before use_student removes the teachers, because the report shows their predictions
        add_hook(cfg)
    use_student(cfg)
    if args.show or args.show_dir:
        draw_results(cfg, show=args.show, folder=args.show_dir, wait_time=args.wait_time)
    if args.tta:
        use_tta(cfg)
    return cfg


def add_dump(runner, path: str, scope: str | None) -> None:
    """Have ``runner`` write its predictions to ``path``."""
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults as Dump
    else:
        Dump = DumpResults
    runner.test_evaluator.metrics.append(Dump(out_file_path=path))


def measure(runner, checkpoint: str, metrics: dict) -> None:
    """Benchmark the runner's model, print the tables, and write ``benchmark.json`` into the work dir."""
    measured = benchmark(runner.model, runner.test_dataloader, amp=runner.test_loop.fp16)
    console = Console()
    if not console.is_terminal:
        # outside of a terminal lines are wide enough for the names of layers
        console = Console(width=140)
    for table in measured.tables():
        console.print(table)
    path = Path(runner.work_dir) / 'benchmark.json'
    run = dict(config=runner.cfg.filename, checkpoint=checkpoint, metrics=metrics)
    path.write_text(json.dumps(run | measured.as_dict(), indent=1, default=float))
    runner.logger.info(f'Benchmark written to {path}')


def show_events(model, logger) -> None:
    """Print which convolutions ran on events, and the densities of their inputs; warn if none did."""
    report = mmsnn.event_report(model)
    Console().print(report.table())
    if not any(counts.on_events for counts in report.values()):
        logger.warning(
            '--engine: no convolution ran on events. That needs a CPU, float32 without autocast, and (unless with '
            '--engine event) inputs that are mostly zero'
        )


def main(argv=None) -> dict | list[dict]:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the metrics, or for several runs a list."""
    args = parse_args(argv)
    if not is_remote(args.checkpoint):
        require_file(args.checkpoint)
    cfg = prepare(read_config(args), args)
    try_writing(Path(cfg.work_dir))
    if args.out:
        try_writing(Path(args.out).parent, '--out', '--out FILE.pkl')
    findings = checks.check_data(cfg, ('test',))
    runner = build_runner(cfg, args.verbose)
    checks.log(findings, runner.logger)
    bar = ProgressBar()
    runner.register_hook(bar)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if args.T is not None:
        mmsnn.set_time_steps(model, args.T[0])
    if args.engine != 'dense':
        # test-time augmentation calls the model inside of its wrapper
        mmsnn.event_driven(model.module if isinstance(model, BaseTTAModel) else model, engine=args.engine)
    if args.exit_confidence:
        # a model that cannot exit early is refused before anything runs
        check(model)
    if args.out:
        add_dump(runner, args.out, cfg.get('default_scope'))
    try:
        with parts_named(cfg):
            if len(args.T or ()) > 1:
                metrics = sweep_time_steps(runner, model, args.T)
            elif args.exit_confidence:
                metrics = sweep_exits(runner, model, args.exit_confidence)
            else:
                metrics = runner.test()
    finally:
        bar.close()
    if args.engine != 'dense' and not several(args):
        show_events(model, runner.logger)
    if args.benchmark:
        measure(runner, args.checkpoint, metrics)
    if several(args) or args.benchmark:
        # the report is written again, because it shows what was measured after the test
        rewrite(runner.work_dir, runner.logger)
    return metrics


if __name__ == '__main__':
    run_main(main)
