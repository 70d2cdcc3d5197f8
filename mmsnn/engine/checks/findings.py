"""The findings of the checks of a config."""

from collections.abc import Iterable
from dataclasses import dataclass

from mmsnn import listing

ERROR, WARNING, NOTE, UNCHECKED = 'error', 'warning', 'note', 'unchecked'


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Args:
        level: ``error`` (training would fail, or learn something wrong), ``warning`` (it might), ``note`` (a result of
            a check that passed), or ``unchecked`` (something that could not be checked).
        key: the config key concerned.
        text: the finding, its file and the remedy.
        kind: class of the exception for an error.
    """

    level: str
    key: str
    text: str
    kind: type[Exception] = ValueError

    def __str__(self) -> str:
        return f'{self.key}: {self.text}'


def error(key: str, text: str, kind: type[Exception] = ValueError) -> Finding:
    """A finding with which training would fail, or learn something wrong."""
    return Finding(ERROR, key, text, kind)


def warning(key: str, text: str) -> Finding:
    """A finding that may be intended."""
    return Finding(WARNING, key, text)


def note(key: str, text: str) -> Finding:
    """A finding about something that is right."""
    return Finding(NOTE, key, text)


def unchecked(key: str, text: str) -> Finding:
    """A finding about something that was not checked, with the reason."""
    return Finding(UNCHECKED, key, text)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise all errors among ``findings``, one per line, as an exception of the first one's kind."""
    errors = [finding for finding in findings if finding.level == ERROR]
    if errors:
        raise errors[0].kind('\n'.join(map(str, errors)))


def some(items: Iterable, shown: int = 5) -> str:
    """The first ``items`` as Python writes them, and the number of the others, as text."""
    return listing.some(list(map(repr, items)), shown)


def number(count: int, what: str) -> str:
    """A count with its noun: ``1 class``, ``3 classes``."""
    return f'{count} {what}' if count == 1 else f'{count} {what}{"es" if what.endswith("s") else "s"}'
