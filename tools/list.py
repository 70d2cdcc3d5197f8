"""List the models, configs, weights, losses and neurons of mmsnn: all of them, or those that match a pattern."""

import argparse
import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import yaml

from mmsnn.refusals import run_main

# the rest of mmsnn takes seconds to import, so names and docstrings are read from the sources
from mmsnn.shipped import home, weights

# for each kind its folder in mmsnn, and how its classes are used
KINDS = dict(
    models=('models', "in configs: dict(type='mmsnn.NAME', ...)"),
    losses=('distill/losses', "in configs: losses=dict(loss_x=dict(type='NAME', ...)), as in configs/_base_/distill"),
    neurons=('neurons', "in configs: neuron=dict(type='NAME', ...), or act_cfg=dict(type='mmsnn.NAME')"),
)
FILES = dict(
    configs="for every command: mmsnn::PATH; 'mmsnn train mmsnn::sakd/sew18_imagenet.py'",
    weights="for every command that takes a checkpoint, and in configs: mmsnn://NAME; 'mmsnn test CONFIG mmsnn://NAME'",
)


def registered(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and first paragraph of the docstring of every class that files below ``folder`` register."""
    for path in sorted(folder.rglob('*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ClassDef) and any('register_module' in ast.dump(d) for d in node.decorator_list):
                doc = (ast.get_docstring(node) or '').partition('\n\n')[0]
                yield node.name, ' '.join(doc.split())


def configs() -> Iterator[tuple[str, str]]:
    """``mmsnn::PATH`` of every shipped config, with the data set and results that a metafile gives for it."""
    folder = home() / 'configs'
    known = {}
    for metafile in sorted(folder.glob('*/metafile.yml')):
        for model in yaml.load(metafile.read_text(encoding='utf-8'), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))[
            'Models'
        ]:
            data = (model.get('Metadata') or {}).get('Training Data', '')
            results = [f'{k} {v}' for r in model.get('Results') or [] for k, v in (r.get('Metrics') or {}).items()]
            known[model['Config'].removeprefix('configs/')] = ', '.join([str(data), *results])
    for path in sorted(folder.glob('*/*.py')):
        name = path.relative_to(folder).as_posix()
        if not name.startswith('_base_'):
            yield f'mmsnn::{name}', known.get(name, '')


def shipped_weights() -> Iterator[tuple[str, str]]:
    """``mmsnn://NAME`` of weights that come with mmsnn, with their config and metrics."""
    for name, entry in sorted(weights().items()):
        yield f'mmsnn://{name}', ', '.join([entry['config'], *(f'{k} {v}' for k, v in entry['metrics'].items())])


def matches(name: str, about: str, pattern: str | None) -> bool:
    """Whether ``pattern`` matches, in upper or lower case.

    A pattern with wildcards is compared with the whole name; another one is searched in the name and in ``about``.
    """
    if pattern is None:
        return True
    pattern, text = pattern.lower(), name.lower()
    return fnmatch(text, pattern) if set(pattern) & set('*?[') else pattern in f'{text} {about.lower()}'


def find(kind: str, pattern: str | None = None) -> list[tuple[str, str]]:
    """Names of a kind that match ``pattern``, each with a line about it."""
    package = home() / 'mmsnn' if (home() / 'mmsnn').is_dir() else home().parent
    files = dict(configs=configs, weights=shipped_weights)
    entries = files[kind]() if kind in files else registered(package / KINDS[kind][0])
    return [(name, about) for name, about in entries if matches(name, about, pattern)]


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('kind', nargs='?', choices=[*KINDS, *FILES], help='default: all')
    parser.add_argument(
        'pattern', nargs='?', help="part of a name or of the line about it, or a name with wildcards: '*bccd*'"
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Run the command line ``argv`` (default: ``sys.argv``); returns the number of entries."""
    args = parse_args(argv)
    count = 0
    for kind in [args.kind] if args.kind else ['models', 'neurons', 'losses', 'configs', 'weights']:
        entries = find(kind, args.pattern)
        count += len(entries)
        if not entries:
            continue
        print(f'{kind} ({FILES.get(kind) or KINDS[kind][1]})')
        width = max(len(name) for name, _ in entries) + 2
        for name, about in entries:
            print(f'  {name:<{width}}{about}'.rstrip())
        print()
    if not count:
        raise SystemExit(f'nothing matches {args.pattern!r}: leave the pattern out to list all names')
    return count


if __name__ == '__main__':
    run_main(main)
