"""Add the weights of a trained network to those that come with mmsnn, with hash, config, commands and metrics.

Example::

    python tools/test.py mmsnn::PATH CHECKPOINT --benchmark --work-dir work_dirs/tested
    python tools/model_converters/publish.py mmsnn::PATH CHECKPOINT --name NAME --results benchmark.json \\
        --commands 'mmsnn train mmsnn::PATH'

Users of mmsnn then load them as ``mmsnn://NAME``.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from mmengine.config import Config

from mmsnn.checkpoints.task_models import load_model
from mmsnn.deploy.card import digest
from mmsnn.refusals import run_main
from mmsnn.shipped import commit, home

LARGEST = 5_000_000


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='mmsnn::PATH of the config; of a distillation config the student is published')
    parser.add_argument('checkpoint', help='checkpoint of the training')
    parser.add_argument('--name', required=True, help='name of the weights, of letters, digits, _ and -')
    parser.add_argument('--results', type=Path, required=True, help='benchmark.json of test.py --benchmark')
    parser.add_argument('--commands', nargs='+', required=True, help='the commands that trained it, in order')
    parser.add_argument('--commit', default=commit(), help='commit that trained it (default: %(default)s)')
    parser.add_argument(
        '--folder', type=Path, default=home() / 'weights', help='folder of the weights (default: %(default)s)'
    )
    args = parser.parse_args(argv)
    if not args.config.startswith('mmsnn::'):
        parser.error(f'{args.config}: give the config as mmsnn::PATH, as users of the weights do')
    if not re.fullmatch(r'[\w-]+', args.name):
        parser.error(f'--name {args.name!r} may only contain letters, digits, _ and -')
    return args


PAGE = """# Weights that come with mmsnn

These small networks were trained with this repository. `mmsnn://NAME` can be used wherever a checkpoint is expected: on
the command line, in `teacher_checkpoint`, `load_from` and `init_cfg`, and in the tools of the task libraries. The files
contain only the network. `tools/model_converters/publish.py` writes them, their hashes in `index.json`, and this page.

| NAME | config | metrics | trained by | commit |
|---|---|---|---|---|
"""


def page(index: dict[str, dict]) -> str:
    """The index as a page in Markdown."""
    rows = []
    for name, entry in index.items():
        metrics = ', '.join(f'{metric} {value:g}' for metric, value in entry['metrics'].items())
        commands = '; '.join(f'`{command}`' for command in entry['commands'])
        rows.append(f'| `{name}` | `{entry["config"]}` | {metrics} | {commands} | {entry["commit"]} |')
    return PAGE + '\n'.join(rows) + '\n'


def main(argv=None) -> dict:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the entry of the index."""
    args = parse_args(argv)
    results = json.loads(args.results.read_text())
    model = load_model(args.config, args.checkpoint)
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / f'{args.name}.pth'
    # so that a test warns of a twin with the same names and shapes
    network = {part: model.cfg.model[part] for part in ('backbone', 'neck') if model.cfg.model.get(part)}
    meta = dict(cfg=Config(dict(model=network)).pretty_text)
    meta |= dict(dataset_meta=dict(classes=model.classes)) if model.classes else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), file)
    if file.stat().st_size > LARGEST:
        size = file.stat().st_size / 1e6
        file.unlink()
        raise ValueError(
            f'{args.name} has {size:.1f} MB; weights that come with mmsnn have at most {LARGEST / 1e6:.0f} MB'
        )
    # COCO's metrics are -1 where there is nothing to measure
    measured = {name: value for name, value in results['metrics'].items() if isinstance(value, float) and value >= 0}
    metrics = {name: round(value, 4) for name, value in measured.items()}
    entry = dict(
        config=args.config.removeprefix('mmsnn::'),
        sha256=digest(file),
        commands=args.commands,
        metrics=metrics,
        commit=args.commit,
    )
    index = args.folder / 'index.json'
    known = json.loads(index.read_text()) if index.is_file() else {}
    known[args.name] = entry
    index.write_text(json.dumps(dict(sorted(known.items())), indent=1) + '\n')
    (args.folder / 'README.md').write_text(page(dict(sorted(known.items()))))
    print(f'{file}: {file.stat().st_size / 1e6:.1f} MB, {metrics}')
    return entry


if __name__ == '__main__':
    run_main(main)
