"""What one run contributes to a section of a report."""

from dataclasses import dataclass, field

from . import charts


@dataclass
class Panel:
    """A run's share of a section: lines, charts, tables, pictures, commands, and what is missing."""

    name: str = ''
    lines: list[str] = field(default_factory=list)
    charts: list[dict] = field(default_factory=list)
    tables: list[dict] = field(default_factory=list)
    pictures: list[dict] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def chart(self, alt: str, draw, *args, **options) -> None:
        """Add a chart, with a text for those who do not see it."""
        self.charts.append(dict(alt=alt, src=charts.svg(draw, *args, **options)))

    def table(self, head: list[str], rows: list[list], caption: str = '') -> None:
        """Add a table; a long one is folded."""
        summary = caption or f'{len(rows)} rows'
        self.tables.append(dict(head=head, rows=rows, caption=caption, summary=summary))
