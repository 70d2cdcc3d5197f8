"""What the checks of a config find."""

from collections.abc import Iterable
from dataclasses import dataclass

ERROR, WARNING, NOTE, UNCHECKED = 'error', 'warning', 'note', 'unchecked'


@dataclass(frozen=True)
class Finding:
    """One thing that a check has to say.

    Args:
        level: ``error`` (training would fail, or learn something wrong), ``warning`` (it may), ``note`` (what was
            looked at), or ``unchecked`` (what could not be).
        key: the config key that it is about.
        text: what was found, in which file, and what to do.
        kind: the exception that an error becomes.
    """

    level: str
    key: str
    text: str
    kind: type[Exception] = ValueError

    def __str__(self) -> str:
        return f'{self.key}: {self.text}'


def error(key: str, text: str, kind: type[Exception] = ValueError) -> Finding:
    """A finding that training would fail on, or learn something wrong from."""
    return Finding(ERROR, key, text, kind)


def warning(key: str, text: str) -> Finding:
    """A finding that may be meant."""
    return Finding(WARNING, key, text)


def note(key: str, text: str) -> Finding:
    """A finding that says what was looked at."""
    return Finding(NOTE, key, text)


def unchecked(key: str, text: str) -> Finding:
    """A finding that says what was not looked at, and why."""
    return Finding(UNCHECKED, key, text)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise the errors among ``findings``, a line each, as the kind of the first; nothing where there are none."""
    errors = [finding for finding in findings if finding.level == ERROR]
    if errors:
        raise errors[0].kind('\n'.join(map(str, errors)))


def some(items: Iterable, shown: int = 5) -> str:
    """The first of ``items``, quoted as Python does, and how many more there are."""
    items = list(items)
    more = f' and {len(items) - shown} more' if len(items) > shown else ''
    return ', '.join(map(repr, items[:shown])) + more


def number(count: int, what: str) -> str:
    """``1 class``, ``3 classes``."""
    return f'{count} {what}' if count == 1 else f'{count} {what}{"es" if what.endswith("s") else "s"}'
