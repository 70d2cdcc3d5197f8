"""What a config changes in the configs that it inherits from, and the command line in the config."""

from pathlib import Path

from mmengine.config import Config

from mmsnn.building import is_distiller, read, type_name, use_student
from mmsnn.engine.cli import complete_loaders
from mmsnn.engine.options import read_by_runners

# what the tools put into every config
OURS = ('work_dir', 'launcher', 'load_from', 'resume', 'train_cfg.type', 'train_cfg.by_epoch')
OURS += ('default_hooks.checkpoint.type', 'runner_type', 'strategy')
MISSING = object()


def changes(cfg: Config) -> list[list[str]] | str:
    """Key, value before and value after, of what a config file changes in its bases; or why nothing is compared.

    Variables that no runner reads are left out. A distillation's student is compared with the model of the base.
    """
    if not cfg.filename or not Path(cfg.filename).is_file():
        return 'The config is no file that could be compared with its base.'
    bases = Config._get_base_files(cfg.filename)
    if not bases:
        return f'{cfg.filename} has no _base_ to compare with (what read_base imports is not compared).'
    before = {}
    for base in bases:
        name = base if '::' in base else str(Path(cfg.filename).parent / base)
        before.update(read(name).to_dict())
    return compare(before, read(cfg.filename).to_dict())


def options(cfg: Config) -> list[list[str]] | None:
    """The same for a config in use and its file: the command line's changes, without what every tool sets."""
    if not cfg.filename or not Path(cfg.filename).is_file():
        return None
    before = read(cfg.filename)
    complete_loaders(before)
    if not is_distiller(cfg.get('model') or {}):
        # of a distillation the student is tested
        use_student(before)
    before, after = before.to_dict(), cfg.to_dict()
    known = before.setdefault('custom_hooks', [])
    after['custom_hooks'] = [hook for hook in after.get('custom_hooks') or [] if hook in known or not _by_tool(hook)]
    return [row for row in compare(before, after) if not row[0].startswith(OURS)]


def _by_tool(hook: dict) -> bool:
    """Whether a hook is as the tools add it: one of mmsnn's without arguments, or the report's."""
    return type_name(hook) == 'ReportHook' or [*hook] == ['type'] and str(hook['type']).startswith('mmsnn.')


def compare(before: dict, after: dict) -> list[list[str]]:
    """Rows of key, value before and value after, where these differ; an empty text where there is none."""
    model = before.get('model') or {}
    if is_distiller(after.get('model') or {}) and model and not is_distiller(model):
        before = {**before, 'model': {'student': model}}
    known = read_by_runners()
    old, new = (dict(_leaves({k: v for k, v in cfg.items() if k in known}, '')) for cfg in (before, after))
    keys = [*new, *(key for key in old if key not in new)]
    rows = []
    for key in keys:
        a, b = old.get(key, MISSING), new.get(key, MISSING)
        # a dict that replaces another value, or is replaced by one, is told by its leaves
        if a != b:
            rows.append([key, *('' if value is MISSING else _text(value) for value in (a, b))])
    return rows


def _leaves(node, path: str):
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f'{path}.{key}' if path else str(key))
    else:
        yield path, list(node) if isinstance(node, tuple) else node


def _text(value) -> str:
    if isinstance(value, type):
        return value.__name__
    text = str(value)
    return text if len(text) <= 300 else f'{text[:300]} ...'
