"""Fitting checkpoints to models: the best reading of their names, and the refusal of what does not fit."""

import logging
from collections.abc import Iterator, Mapping

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmsnn.listing import some

from .conversion import convert_state
from .matching import Match, compare, is_wrapper, learned_by_neurons, misfit, plain_name
from .origin import mention_origin
from .reading import find_state, load_content

# Prefixes of names in checkpoints of training scripts that wrap a network.
LEADS = ('model.', 'net.', 'network.')
REMEDY = 'Give the checkpoint that was trained with this config, or the config that belongs to this checkpoint.'


def match(state: Mapping[str, Tensor], model: nn.Module, own: Mapping[str, Tensor] | None = None) -> Match:
    """Read the names in ``state`` so that as many tensors as possible fit ``model``.

    Names are tried as they are, without the parts that wrappers add, as names of a whole model or of a backbone alone,
    and in the layouts that `convert_state` knows. Modules that resize their weights on loading (position embeddings)
    may do so.

    Args:
        state: a state dict.
        model: a task model or a module of one.
        own: the state dict of ``model``, if the caller has it.

    Returns:
        The best match; its state is converted if that was necessary.
    """
    own = model.state_dict() if own is None else own
    best = compare(state, own)
    if best.missing or best.mismatched:
        for reading, names in _readings({plain_name(k): v for k, v in state.items()}, own):
            candidate = compare(names, own)
            if len(candidate.matched) > len(best.matched):
                best, candidate.reading = candidate, reading
    if best.mismatched:
        reading, best = best.reading, compare(_as_modules_change(best, model), own)
        best.reading = reading
    return best


def _readings(state: dict, own: Mapping) -> Iterator[tuple[str, dict]]:
    """Other readings of the names in ``state``, each with its description."""
    whole = any(key.startswith('backbone.') for key in own)
    parts = {'': state} | {lead: below(lead, state) for lead in LEADS}
    for lead, part in parts.items():
        where = f'entries below {lead[:-1]}: ' if lead else ''
        if lead:
            yield f'{where}as they are', part
        try:
            converted, report = convert_state(part)
        # The layout is unknown; the comparison will show that nothing fits.
        except (ValueError, RuntimeError):
            pass
        else:
            layout = report.layout
            # The layout 'openmmlab' needs no conversion; below it is read for a part of the model.
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
    """The entries whose names begin with ``lead``, under their names without it."""
    return {key[len(lead) :]: value for key, value in state.items() if key.startswith(lead)}


def _as_modules_change(candidate: Match, model: nn.Module) -> dict:
    """The state after the modules' own loading hooks have changed it."""
    state = dict(candidate.state)
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        if not is_wrapper(module) and any(key.startswith(prefix) for key in candidate.mismatched):
            for hook in module._load_state_dict_pre_hooks.values():
                hook(state, prefix, {}, False, [], [], [])
    return state


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers for parallel training and test-time augmentation."""
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
    """The entries of ``state`` that fit into ``model``, under the model's names; the log lists the others.

    Args:
        model: a task model or a module of one, possibly in wrappers for parallel training or test-time augmentation.
        state: a state dict.
        source: file or address of ``state``, for messages.
        door: the use of the weights, which decides how well they must fit. ``start``: a training begins with them;
            heads may differ. ``test``: all shapes must agree, and the backbone must be complete. ``teacher``: the whole
            model must be complete. ``resume``: the names must be the same; nothing is converted.
        key: config key that names the source, for messages.
        own: the state dict of ``model``, if the caller has it.

    Raises:
        ValueError: the weights do not fit; the message names key, source and remedy.
    """
    model = unwrapped(model)
    own = model.state_dict() if own is None else own
    best = compare(state, own) if door == 'resume' else match(state, model, own)
    name = type(model).__name__
    subject = f'{key}: {source}' if key else str(source)
    reason = misfit(best, model, own)
    differing = [f'{k} {a} instead of {b}' for k, (a, b) in best.mismatched.items()]
    if not reason and door != 'start' and differing:
        reason = f'has other shapes than {name}: {some(differing)}'
    needed = dict(start=(), test=('backbone.',), teacher=('',), resume=('',))[door]
    lost = [k for k in best.missing if k.startswith(needed)]
    if not reason and lost:
        reason = f'lacks weights of {"the backbone of " if door == "test" else ""}{name}: {some(lost)}'
    if not reason and door == 'resume' and best.unused:
        reason = f'holds entries that {name} does not have: {some(best.unused)}'
    if reason:
        read = f', read as {best.reading},' if best.reading else ''
        raise ValueError(f'{subject}{read} {reason}. {_remedy(best, source, door, key)}')
    if door in ('test', 'teacher') and (bad := _not_finite(best.state, model)):
        raise ValueError(
            f'{subject} holds NaN or infinity in {bad}: it comes from a training that failed. Take an earlier one'
        )
    learned = learned_by_neurons(model) if best.missing else ()
    random = [k for k in best.missing if k not in learned] + differing
    said = [f'read as {best.reading}'] if best.reading else []
    said += [f'lacks the following, which stay random: {some(random, 20)}'] if random else []
    new = [k for k in best.missing if k in learned]
    said += [f'lacks parameters of neurons, which keep their initial values: {some(new)}'] if new else []
    said += [f'has unused entries: {some(best.unused, 20)}'] if best.unused else []
    if said:
        level = logging.WARNING if random else logging.INFO
        print_log(f'{subject} ({len(best.matched)} tensors fit {name}): {"; ".join(said)}', 'current', level)
    return {k: v for k, v in best.state.items() if k in own and k not in best.mismatched}


def _not_finite(state: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """The first parameter, or statistic of a norm, that is not finite; other buffers may be masks of infinity."""
    parameters = {name for name, _ in model.named_parameters()}
    for name, x in state.items():
        counts = name in parameters or name.endswith(('running_mean', 'running_var'))
        if counts and x.is_floating_point() and not x.isfinite().all():
            return name
    return None


def _remedy(best: Match, source: str, door: str, key: str) -> str:
    if door == 'resume':
        return (
            f'To continue a training, resume a checkpoint of this config. To begin one from these weights, leave {key} '
            f'out and set load_from={source}'
        )
    remedy = REMEDY
    if door == 'start':
        remedy = f'Does the config have the depth (or arch), stem and widths of the file? {REMEDY}'
    if best.unused or not best.matched:
        remedy += (
            f' For a file of another code base: python -m mmsnn convert {source} CONVERTED.pth --config CONFIG says '
            'what does not fit, and its --help lists the known layouts.'
        )
    if door == 'start' and key:
        remedy += f' To start from random weights: {key.removesuffix(".checkpoint")}=None.'
    return remedy


def load_weights(model: nn.Module, source: str, key: str = '', door: str = 'test', cfg: Mapping | None = None) -> None:
    """Load a checkpoint, given as for `load_state`, into a whole model that is not going to be trained.

    With the model's config ``cfg``, the log says if the file was trained with another network of equal shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file could run code, or does not fit; see `fit`.
    """
    content = load_content(source)
    model.load_state_dict(fit(model, find_state(content, str(source)), str(source), door, key), strict=False)
    mention_origin(content, cfg, str(source), key)
