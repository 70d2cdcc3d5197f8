"""A wrapper whose inner model keeps its own names."""

from torch import nn


class Transparent:
    """Mixin of a module that wraps another one, the child ``inner``, and shows it under the inner model's own names.

    ``state_dict`` writes and reads the inner model's keys, `named_parameters` gives the inner model's names (layer-wise
    settings match on them), unknown attributes are the inner model's, to read, to set and to delete; so are modules and
    parameters of new names, such as a neck for a model that has none. Children in ``hidden`` are left out of
    ``state_dict``. State-dict hooks do this rather than an override, because mmengine walks the modules itself.

    While ``shows_itself`` is set, the wrapper is an ordinary module, and each parameter has a single name, as FSDP
    needs it. `rename_inner` and `restore_inner` then translate between the names.
    """

    inner: str = ''
    hidden: tuple[str, ...] = ()
    shows_itself = False

    def _make_transparent(self) -> None:
        """To be called at the end of ``__init__``: up to here attributes are set on the wrapper itself."""
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
            return getattr(inner, name)

    def _is_own(self, name: str) -> bool:
        """Whether an attribute is the wrapper's: its class has it, or it got it before it was transparent."""
        if '_transparent' not in self.__dict__ or name.startswith('__') or hasattr(type(self), name):
            return True
        return any(name in self.__dict__[d] for d in ('_modules', '_parameters', '_buffers')) or name in self.__dict__

    def __setattr__(self, name: str, value) -> None:
        if isinstance(getattr(type(self), name, None), property):
            # a module would be registered behind the property's back
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
        """As `nn.Module.add_module`; under a name that is not the wrapper's, of the inner model."""
        if self._is_own(name):
            super().add_module(name, module)
        else:
            self._modules[self.inner].add_module(name, module)

    def named_modules(self, memo=None, prefix: str = '', remove_duplicate: bool = True):
        """As `nn.Module.named_modules`; the inner model's modules come under their own names."""
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
    """Give the inner model's entries of ``state`` its own names; ``prefix`` is where ``module`` stands in it."""
    inner = f'{prefix}{module.inner}.'
    entries = [(prefix + key[len(inner) :] if key.startswith(inner) else key, v) for key, v in state.items()]
    # in place, and in their order
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
    # hidden children are not in the file on purpose; the rest is reported under the inner model's names
    marks = tuple(f'{name}.' for name in module.hidden)
    kept = []
    for key in incompatible.missing_keys:
        if not any(key.startswith(mark) or f'.{mark}' in key for mark in marks):
            kept.append(key.replace(f'{module.inner}.', '', 1))
    incompatible.missing_keys[:] = kept
