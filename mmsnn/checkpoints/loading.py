"""Safe reading and checking of all weights that mmengine loads."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.model import PretrainedInit, update_init_info
from mmengine.runner import BaseLoop, find_latest_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from mmsnn.listing import some
from mmsnn.shipped import is_remote

from .claims import require_file
from .fitting import below, fit, unwrapped
from .matching import compare, is_spiking, is_wrapper, misfit, plain_name
from .origin import mention_origin
from .reading import download, find_state, load_file, safely
from .resumable import check_resumable

# Whether the weights of ANNs are checked as well (the tools switch this on), and the file that mmengine read last.
_checks = SimpleNamespace(of_anns=False, read='')


def check_source(cfg: Mapping) -> None:
    """Raise FileNotFoundError if the file in ``load_from`` does not exist; the message lists checkpoints beside it."""
    path = cfg.get('load_from')
    if path and not is_remote(path):
        require_file(path, '--resume' if cfg.get('resume') else 'load_from')


class CheckMatch(Hook):
    """Checks the weights that a runner is about to load, and converts those of known layouts; see `fit`."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        source, door, key = runner._load_from, 'test', ''
        if isinstance(runner._train_loop, BaseLoop):
            door, key = 'start', 'load_from'
        if key and runner._resume:
            source, door, key = source or find_latest_checkpoint(runner.work_dir), 'resume', '--resume'
            check_resumable(runner, checkpoint, source, key)
        checkpoint['state_dict'] = fit(runner.model, checkpoint['state_dict'], source, door, key, _whole(runner))
        if door == 'test':
            mention_origin(checkpoint, runner.cfg.get('model'), source)


def _whole(runner) -> dict | None:
    """Names and shapes of weights that FSDP shards, on every process; None for other models."""
    if not isinstance(runner.model, FSDP):
        return None
    # Only the first process has the whole state dict; connectors are loaded by their own hook.
    shapes = {k: v.shape for k, v in runner.strategy.model_state_dict().items() if not k.startswith('connectors.')}
    shared = [shapes]
    broadcast_object_list(shared)
    return {name: torch.empty(shape, device='meta') for name, shape in shared[0].items()}


def load_pretrained(module: nn.Module, source: str, prefix: str | None = None) -> None:
    """Load weights as ``init_cfg=dict(type='Pretrained', checkpoint=source, prefix=prefix)`` does, checked by `fit`.

    Args:
        module: a backbone, neck, head or whole model.
        source: a file or an address that mmengine can read.
        prefix: prefix of the entries to load, with or without a dot at its end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such address, no entry has the ``prefix``, the file could run code, or the weights do
            not fit.
    """
    key = f'{_role(module)}init_cfg.checkpoint'
    try:
        with safe_reading():
            content = CheckpointLoader.load_checkpoint(source, map_location='cpu', logger='silent')
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{key}: {error}') from None
    except KeyError as error:
        raise ValueError(f'{key}={source!r}: there are no weights of the name {error}') from None
    except ValueError as error:
        raise ValueError(f'{key}: {error}') from error
    except ImportError as error:
        raise ImportError(f'{key}: {error}') from None
    except OSError as error:
        raise OSError(f'{key}={source!r} could not be downloaded ({error}): download it and give the file') from error
    state = find_state(content, source)
    if prefix:
        lead = prefix if prefix.endswith('.') else f'{prefix}.'
        state = {plain_name(k): v for k, v in state.items()}
        tops = sorted({name.partition('.')[0] for name in state})
        state = below(lead, state)
        if not state:
            raise ValueError(
                f'{key.replace("checkpoint", "prefix")}={prefix!r}: no entry of {source} begins with it; there are '
                f'{some(tops, 8)}'
            )
    module.load_state_dict(fit(module, state, source, 'start', key), strict=False)


def pretrained_from(init_cfg) -> str | None:
    """The checkpoint that an ``init_cfg``, a dict or a list of dicts, names; None if it names none."""
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
        if isinstance(cfg, Mapping) and cfg.get('type') in ('Pretrained', PretrainedInit):
            return cfg.get('checkpoint')
    return None


def init_inner(backbone: nn.Module) -> None:
    """Call ``backbone.init_weights()`` and check that its checkpoint was loaded, since some backbones load it
    themselves and report nothing.

    Raises:
        ValueError: the backbone has a pretrained ``init_cfg``, but most of its kernels did not change.
    """
    source = pretrained_from(getattr(backbone, 'init_cfg', None))
    if not source:
        backbone.init_weights()
        return
    kernels = {name: p for name, p in backbone.named_parameters() if p.dim() > 1}
    before = {name: p.detach().clone() for name, p in kernels.items()}
    said, kind = f'backbone.init_cfg.checkpoint: {source}', type(backbone).__name__
    remedy = f'Give a file in the layout that {kind}.init_weights reads, or start without: backbone.init_cfg=None.'
    try:
        with safe_reading():
            backbone.init_weights()
    # These errors come from the backbone's own code for loading.
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f'{said} was not loaded by {kind} ({type(error).__name__}: {error}). {remedy}') from error
    left = [name for name, p in kernels.items() if torch.equal(p, before[name])]
    if 2 * len(left) > len(kernels):
        raise ValueError(
            f'{said} fills {len(kernels) - len(left)} of {len(kernels)} kernels of {kind}, which reads its checkpoints '
            f'itself; the following would stay random: {some(left)}. {remedy}'
        )


def _role(module: nn.Module) -> str:
    """The config key, with a dot, of the part that a module is, as far as its class shows it."""
    if hasattr(module, 'backbone') and not is_wrapper(module):
        return 'model.'
    home = type(module).__module__.split('.')
    for role in ('neck', 'head'):
        if any(part in home for part in (f'{role}s', f'decode_{role}s', f'dense_{role}s', f'roi_{role}s')):
            return f'{role}.'
    return 'backbone.' if is_spiking(module) or 'backbones' in home else f'{type(module).__name__}.'


def load_from_local(filename: str, map_location=None) -> dict:
    """The content of a checkpoint file with its state dict under ``state_dict``, always on the CPU.

    Args:
        filename: a file, or ``mmsnn://NAME`` for weights that come with mmsnn.
        map_location: not used; mmengine passes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds objects that could run code, or has no state dict.
    """
    require_file(filename)
    content = load_file(filename)
    # `find_state` logs which weights are read if a file holds two sets of them.
    state = find_state(content, filename)
    if 'state_dict' not in content:
        content = {'state_dict': state}
    return _without_config(content)


def _without_config(content):
    if isinstance(content, Mapping) and isinstance(content.get('meta'), dict):
        # mmengine would execute the config when it resumes.
        content['meta'].pop('config', None)
    return content


@contextmanager
def safe_reading() -> Iterator[None]:
    """Context in which mmengine reads all checkpoints with ``weights_only=True``, without a fallback to pickles."""
    before = mmengine_checkpoint.load_url, mmengine_checkpoint._safe_torch_load
    schemes = CheckpointLoader._schemes.copy()
    _make_safe()
    try:
        yield
    finally:
        mmengine_checkpoint.load_url, mmengine_checkpoint._safe_torch_load = before
        CheckpointLoader._schemes = schemes


def install_safe_loading() -> None:
    """Make `safe_reading` and `anns_are_checked` permanent in this process. It may be called several times."""
    _make_safe()
    _checks.of_anns = True


def _make_safe() -> None:
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    mmengine_checkpoint.load_url = _load_url
    # The other schemes read files with this function.
    mmengine_checkpoint._safe_torch_load = _load_file


def _load_url(url: str, model_dir: str | None = None, map_location=None, progress: bool = True) -> Mapping:
    return _without_config(download(url, model_dir, progress))


def _load_file(source, map_location=None) -> Mapping:
    return _without_config(safely(source))


@contextmanager
def anns_are_checked() -> Iterator[None]:
    """Context in which `load_pretrained` also loads the weights of ANNs, such as teachers, as it does in the tools."""
    before, _checks.of_anns = _checks.of_anns, True
    try:
        yield
    finally:
        _checks.of_anns = before


def check_what_mmengine_loads() -> None:
    """Make mmengine load the weights of spiking modules by `load_pretrained` and `fit`; ANNs are left to mmengine.

    This covers ``init_cfg``, and the inferencers and tools of the task libraries. The weights must fit as for the start
    of a training; files of known layouts are converted.
    """
    if not hasattr(mmengine_checkpoint.load_state_dict, '__wrapped__'):
        CheckpointLoader.register_scheme('mmsnn://', load_from_local)
        PretrainedInit.__call__ = _checked_init(PretrainedInit.__call__)
        CheckpointLoader.load_checkpoint = _noted(CheckpointLoader.load_checkpoint)
        mmengine_checkpoint.load_state_dict = _checked_load(mmengine_checkpoint.load_state_dict)


def _checked_init(initialise):
    @functools.wraps(initialise)
    def init(self, module: nn.Module) -> None:
        if not (_checks.of_anns or is_spiking(module)):
            initialise(self, module)
            return
        load_pretrained(module, self.checkpoint, self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    return init


def _noted(read):
    @functools.wraps(read)
    def load_checkpoint(filename: str, *args, **kwargs):
        _checks.read = filename
        return read(filename, *args, **kwargs)

    return load_checkpoint


def _checked_load(load):
    @functools.wraps(load)
    def load_state_dict(module: nn.Module, state_dict: Mapping, strict: bool = False, logger=None):
        inner = unwrapped(module)
        if is_spiking(inner):
            own = inner.state_dict()
            as_it_is = own.keys() >= state_dict.keys()
            if not as_it_is or misfit(compare(state_dict, own), inner, own):
                source = _checks.read or 'the checkpoint'
                state_dict = fit(inner, find_state(state_dict, source), source, 'start')
        return load(module, state_dict, strict, logger)

    return load_state_dict
