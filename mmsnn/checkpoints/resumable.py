"""What a checkpoint must hold so that a training can continue from it."""

from collections.abc import Mapping

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from .fitting import unwrapped


def check_resumable(runner, checkpoint: Mapping, source: str, key: str = '--resume') -> None:
    """Refuse to continue a runner's training from a checkpoint that is not one of this training.

    Raises:
        ValueError: the states of the optimizer or of the schedules are missing, or the optimizer's is of other
            parameters, as that of a distillation with connectors. The message names file and remedy.
    """
    start = f'leave {key} out and set load_from={source}'
    absent = [name for name in ('epoch', 'iter') if name not in (checkpoint.get('meta') or {})]
    # an ordinary option of CheckpointHook leaves out schedules, which would begin anew
    needed = ['optimizer', 'message_hub'] + ['param_schedulers'] * bool(runner.param_schedulers)
    absent += [name for name in needed if not checkpoint.get(name)]
    if absent:
        raise ValueError(
            f'{key}: {source} holds no {" and no ".join(absent)}, so no training can continue from it. To '
            f'begin one from its weights, {start}'
        )
    saved = _sizes(checkpoint['optimizer'])
    # States of several optimizers, and sharded ones, are left to mmengine.
    if not isinstance(runner, Runner) or not isinstance(runner.optim_wrapper, OptimWrapper) or saved is None:
        return
    own = _sizes(runner.optim_wrapper.optimizer.state_dict())
    distilled = bool(checkpoint.get('connectors'))
    # DistillHook says what a distillation's training lacks.
    if getattr(unwrapped(runner.model), 'connectors', None) and not distilled:
        return
    if own and saved != own:
        why = ' (those of a distillation, with its connectors)' if distilled else ''
        raise ValueError(
            f'{key}: the optimizer of {source} holds {sum(saved)} parameters in {len(saved)} groups{why}, that of this '
            f'training {sum(own)} in {len(own)}: resume with the config that wrote the file. To begin a training from '
            f'its weights, {start}'
        )


def _sizes(optimizer: Mapping) -> list[int] | None:
    """Number of parameters of each group of an optimizer's state; None if it has no groups."""
    groups = optimizer.get('param_groups') if isinstance(optimizer, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(g, Mapping) and 'params' in g for g in groups):
        return None
    return [len(group['params']) for group in groups]
