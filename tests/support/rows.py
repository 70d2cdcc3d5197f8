"""A pytest plugin that counts for every row of the scorecard what was tried and survived: ``-p rows --rows FILE``.

A test belongs to the row that its marker names, ``@pytest.mark.row('R16')``, or else to the one that the docstring of
its file begins with. It is one try; a test of several says how many: ``record_property('tries', 40)``. Where one of
those fails it may say how many survived, ``record_property('survived', 39)``, and otherwise none has. The variable
``MMSNN_ROWS`` names the rows that are run.
"""

import json
import os
import re
from collections import defaultdict
from pathlib import Path


def pytest_addoption(parser):
    parser.addoption('--rows', metavar='FILE', help='write the counts of the rows into FILE')


def pytest_configure(config):
    # workers send their reports to the process that was started
    if config.getoption('rows') and not hasattr(config, 'workerinput'):
        config.pluginmanager.register(Counts(Path(config.getoption('rows'))))


def pytest_collection_modifyitems(config, items):
    wanted, left = os.environ.get('MMSNN_ROWS', '').split(), []
    for item in list(items):
        row = row_of(item)
        if row:
            item.user_properties.append(('row', row))
        if wanted and row not in wanted:
            items.remove(item)
            left.append(item)
    config.hook.pytest_deselected(items=left)


def row_of(item) -> str | None:
    """The row of a test."""
    marker = item.get_closest_marker('row')
    if marker:
        return marker.args[0]
    found = re.match(r'(R\d\d):', item.module.__doc__ or '')
    return found[1] if found else None


class Counts:
    """Adds the reports up."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = defaultdict(lambda: dict(tried=0, survived=0, skipped=[], failed=[], seconds=0.0))

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        if 'row' not in properties:
            return
        row = self.rows[properties['row']]
        row['seconds'] += report.duration
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            row['skipped'].append(f'{report.nodeid}: {reason.removeprefix("Skipped: ")}')
        elif report.failed:
            tries = properties.get('tries', 1)
            row['tried'] += tries
            row['survived'] += min(properties.get('survived', 0), tries - 1)
            row['failed'].append(report.nodeid)
        elif report.when == 'call':
            tries = properties.get('tries', 1)
            row['tried'] += tries
            row['survived'] += tries

    def pytest_sessionfinish(self, session):
        self.path.write_text(json.dumps(self.rows, indent=1, sort_keys=True))
