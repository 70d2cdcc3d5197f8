"""How weights are read into the names of a model, and when they are refused."""

import logging
from collections.abc import Iterator, Mapping

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .conversion import convert_state
from .matching import Match, compare, is_wrapper, learned_by_neurons, misfit, plain_name, some
from .reading import load_state

# what training scripts wrap a network in
LEADS = ('model.', 'net.', 'network.')
REMEDY = 'Give the checkpoint that was trained with this config, or the config that belongs to this checkpoint.'


def match(state: Mapping[str, Tensor], model: nn.Module, own: Mapping[str, Tensor] | None = None) -> Match:
    """Read ``state`` so that as much of it as possible fits ``model``.

    Names are tried as they are, without what wrappers put into them, as those of a whole model or of a backbone alone,
    and in the layouts that `convert_state` knows. Modules that resize what they load (position embeddings) are heeded.

    Args:
        state: a state dict.
        model: a task model or a module of one.
        own: its state dict, if it is at hand.

    Returns:
        The best match, converted where that was needed.
    """
    own = model.state_dict() if own is None else own
    best = compare(state, own)
    if best.missing or best.mismatched:
        for reading, names in _readings({plain_name(k): v for k, v in state.items()}, own):
            found = compare(names, own)
            if len(found.matched) > len(best.matched):
                best, found.reading = found, reading
    if best.mismatched:
        reading, best = best.reading, compare(_as_modules_change(best, model), own)
        best.reading = reading
    return best


def _readings(state: dict, own: Mapping) -> Iterator[tuple[str, dict]]:
    """Other readings of the names in ``state``, and how to say so."""
    whole = any(key.startswith('backbone.') for key in own)
    parts = {'': state} | {lead: below(lead, state) for lead in LEADS}
    for lead, part in parts.items():
        where = f'what lies below {lead[:-1]}: ' if lead else ''
        if lead:
            yield f'{where}as it is', part
        try:
            converted, report = convert_state(part)
        # in no layout that is known, which the comparison shows
        except (ValueError, RuntimeError):
            pass
        else:
            layout = report.layout
            # what is ours already has its names, and is read below where a part of it is wanted
            if layout.name != 'openmmlab':
                remark = f'; the config needs {layout.remark}' if layout.remark else ''
                how = f'{where}layout {layout.name} of {layout.about}, converted{remark}'
                yield how, converted if whole else below('backbone.', converted)
        if whole:
            yield f'{where}a backbone alone', {f'backbone.{key}': value for key, value in part.items()}
        else:
            for name in ('backbone.', 'neck.'):
                yield f'{where}the {name[:-1]} of a whole model', below(name, part)


def below(lead: str, state: Mapping) -> dict:
    """The entries whose names begin with ``lead``, without it."""
    return {key[len(lead) :]: value for key, value in state.items() if key.startswith(lead)}


def _as_modules_change(found: Match, model: nn.Module) -> dict:
    """The state as the modules' own hooks change it when they load it."""
    state = dict(found.state)
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        if not is_wrapper(module) and any(key.startswith(prefix) for key in found.mismatched):
            for hook in module._load_state_dict_pre_hooks.values():
                hook(state, prefix, {}, False, [], [], [])
    return state


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers for parallel training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def fit(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    door: str = 'test',
    key: str = '',
    own: Mapping[str, Tensor] | None = None,
) -> dict:
    """What of ``state`` has a place in ``model``, under its names; what has none, or stays random, is logged.

    Args:
        model: a task model or a module of one; wrappers for parallel training and test-time augmentation are looked
            through.
        state: a state dict.
        source: where it comes from, for messages.
        door: ``start`` (training starts from it: heads may differ), ``test`` (all shapes have to fit, and all of the
            backbone be there), ``teacher`` (all has to be there) or ``resume`` (and nothing else; no converting).
        key: config key that names the source, for messages.
        own: the model's state dict, if it is at hand.

    Raises:
        ValueError: it does not fit; the message names key, source and remedy.
    """
    model = unwrapped(model)
    own = model.state_dict() if own is None else own
    found = compare(state, own) if door == 'resume' else match(state, model, own)
    name = type(model).__name__
    subject = f'{key}: {source}' if key else str(source)
    reason = misfit(found, model, own)
    differing = [f'{k} {a} instead of {b}' for k, (a, b) in found.mismatched.items()]
    if not reason and door != 'start' and differing:
        reason = f'has other shapes than {name}: {some(differing)}'
    needed = dict(start=(), test=('backbone.',), teacher=('',), resume=('',))[door]
    lost = [k for k in found.missing if k.startswith(needed)]
    if not reason and lost:
        reason = f'lacks weights of {"the backbone of " if door == "test" else ""}{name}: {some(lost)}'
    if not reason and door == 'resume' and found.unused:
        reason = f'holds what {name} has no place for: {some(found.unused)}'
    if reason:
        read = f', read as {found.reading},' if found.reading else ''
        raise ValueError(f'{subject}{read} {reason}. {_remedy(found, source, door, key)}')
    learned = learned_by_neurons(model) if found.missing else ()
    random = [k for k in found.missing if k not in learned] + differing
    said = [f'read as {found.reading}'] if found.reading else []
    said += [f'lacks, so that they stay random: {some(random, 20)}'] if random else []
    new = [k for k in found.missing if k in learned]
    said += [f'has not what neurons learn, which keep their initial values: {some(new)}'] if new else []
    said += [f'holds without use: {some(found.unused, 20)}'] if found.unused else []
    if said:
        level = logging.WARNING if random else logging.INFO
        print_log(f'{subject} ({len(found.matched)} tensors fit {name}): {"; ".join(said)}', 'current', level)
    return {k: v for k, v in found.state.items() if k in own and k not in found.mismatched}


def _remedy(found: Match, source: str, door: str, key: str) -> str:
    if door == 'resume':
        return (
            f'To go on, resume a checkpoint of this config. To begin a training from these weights, leave {key} out '
            f'and set load_from={source}'
        )
    remedy = REMEDY if door != 'start' else f'Is the config that of the file (depth or arch, stem, widths)? {REMEDY}'
    if found.unused or not found.matched:
        remedy += (
            f' For a file of another code base: python -m mmsnn convert {source} CONVERTED.pth --config CONFIG says '
            'what does not fit, and --help there which layouts are known.'
        )
    if door == 'start' and key:
        remedy += f' To start from random weights: {key.removesuffix(".checkpoint")}=None.'
    return remedy


def load_weights(model: nn.Module, source: str, key: str = '', door: str = 'test') -> None:
    """Read a checkpoint (as `load_state`) into a whole model that is not trained.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file could run code, or does not fit; see `fit`.
    """
    model.load_state_dict(fit(model, load_state(source), str(source), door, key), strict=False)
