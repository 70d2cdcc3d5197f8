"""Lists of names in messages."""


def some(names: list[str], shown: int = 3) -> str:
    """The first ``shown`` names and the number of the others, as text."""
    return ', '.join(names[:shown]) + (f' and {len(names) - shown} more' if len(names) > shown else '')
