"""Wrappers that show their inner model under its own names."""

from collections.abc import Callable
from functools import partial

from torch import nn


class Transparent:
    """Mixin for a module that wraps another one, its child ``inner``, and shows it under the inner model's own names.

    ``state_dict`` writes and reads the inner model's keys, and `named_parameters` gives the inner model's names, which
    layer-wise settings match. Attributes that the wrapper does not have are read, set and deleted in the inner model;
    new modules and parameters, such as a neck for a model without one, are added to the inner model. Children in
    ``hidden`` are left out of ``state_dict``. All this uses state-dict hooks instead of overriding ``state_dict``,
    because mmengine collects the state of modules itself.

    While ``shows_itself`` is set, the wrapper behaves as an ordinary module, and each parameter has a single name, as
    FSDP needs it. `rename_inner` and `restore_inner` then convert between the names.
    """

    inner: str = ''
    hidden: tuple[str, ...] = ()
    shows_itself = False

    def _make_transparent(self) -> None:
        """Start to act as the inner model; call it at the end of ``__init__``, which sets the wrapper's attributes."""
        self._register_state_dict_hook(_strip)
        self.register_load_state_dict_pre_hook(_add)
        self.register_load_state_dict_post_hook(_forgive)
        self.__dict__['_transparent'] = True

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get('_modules', {}).get(self.inner)
            if inner is None or name.startswith('__'):
                raise
            found = getattr(inner, name)
            return partial(self._layer_depth, found) if name == 'get_layer_depth' else found

    def _layer_depth(self, ask: Callable, param_name: str, *prefix: str) -> tuple[int, int]:
        """The inner model's ``get_layer_depth``, whose callers name parameters by modules' children."""
        before = prefix[0] if prefix else ''
        own = f'{before}{self.inner}.'
        if param_name.startswith(own):
            param_name = before + param_name[len(own) :]
        return ask(param_name, *prefix)

    def _is_own(self, name: str) -> bool:
        """Whether an attribute is the wrapper's own: its class has it, or ``__init__`` has set it."""
        if '_transparent' not in self.__dict__ or name.startswith('__') or hasattr(type(self), name):
            return True
        return any(name in self.__dict__[d] for d in ('_modules', '_parameters', '_buffers')) or name in self.__dict__

    def __setattr__(self, name: str, value) -> None:
        if isinstance(getattr(type(self), name, None), property):
            # `nn.Module.__setattr__` would register a module and ignore the property.
            object.__setattr__(self, name, value)
        elif not self._is_own(name) and (
            isinstance(value, (nn.Module, nn.Parameter)) or hasattr(self._modules[self.inner], name)
        ):
            setattr(self._modules[self.inner], name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_own(name):
            super().__delattr__(name)
        else:
            delattr(self._modules[self.inner], name)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As `nn.Module.add_module`; a module whose name is not the wrapper's own is added to the inner model."""
        if self._is_own(name):
            super().add_module(name, module)
        else:
            self._modules[self.inner].add_module(name, module)

    def named_modules(self, memo=None, prefix: str = '', remove_duplicate: bool = True):
        """As `nn.Module.named_modules`, with the inner model's own names."""
        memo = set() if memo is None else memo
        if self.shows_itself:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            if child is None:
                continue
            below = prefix if name == self.inner else f'{prefix}.{name}' if prefix else name
            yield from child.named_modules(memo, below, remove_duplicate)


def rename_inner(module: Transparent, state: dict, prefix: str) -> None:
    """Rename the inner model's entries of ``state`` to its own names; ``prefix`` is the prefix of ``module``."""
    inner = f'{prefix}{module.inner}.'
    entries = [(prefix + key[len(inner) :] if key.startswith(inner) else key, v) for key, v in state.items()]
    # The dict is changed in place, and keeps its order.
    state.clear()
    state.update(entries)


def restore_inner(module: Transparent, state: dict, prefix: str) -> None:
    """Undo `rename_inner`."""
    own = tuple(f'{prefix}{name}.' for name in (module.inner, *module.hidden))
    for key in list(state):
        if key.startswith(prefix) and not key.startswith(own):
            state[f'{prefix}{module.inner}.{key[len(prefix) :]}'] = state.pop(key)


def _strip(module: Transparent, state: dict, prefix: str, _) -> None:
    if module.shows_itself:
        return
    hidden = tuple(f'{prefix}{name}.' for name in module.hidden)
    for key in [key for key in state if key.startswith(hidden)]:
        del state[key]
    rename_inner(module, state, prefix)


def _add(module: Transparent, state: dict, prefix: str, *_) -> None:
    if not module.shows_itself:
        restore_inner(module, state, prefix)


def _forgive(module: nn.Module, incompatible) -> None:
    if module.shows_itself:
        return
    # Hidden children are never in a file; other missing keys are reported under the inner model's names.
    marks = tuple(f'{name}.' for name in module.hidden)
    kept = []
    for key in incompatible.missing_keys:
        if not any(key.startswith(mark) or f'.{mark}' in key for mark in marks):
            kept.append(key.replace(f'{module.inner}.', '', 1))
    incompatible.missing_keys[:] = kept
