"""Libraries that only some of the commands need."""

import importlib
from types import ModuleType


def need(extra: str, *modules: str) -> list[ModuleType]:
    """Import ``modules``.

    Args:
        extra: what of setup.py's extras brings them.

    Raises:
        ImportError: one is missing; the message names the extra.
    """
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            raise ImportError(f"{name} cannot be imported ({error}): pip install 'mmsnn[{extra}]'") from error
    return found
