"""Libraries that only some of the commands need."""

import importlib
from types import ModuleType


def need(extra: str, *modules: str) -> list[ModuleType]:
    """Import ``modules`` and return them.

    Args:
        extra: name of the extra in setup.py that installs them.
        modules: names of the modules.

    Raises:
        ImportError: a module is missing; the message names the extra.
    """
    imported = []
    for name in modules:
        try:
            imported.append(importlib.import_module(name))
        except ImportError as error:
            raise ImportError(f"{name} cannot be imported ({error}): pip install 'mmsnn[{extra}]'") from error
    return imported
