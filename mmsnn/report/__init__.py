"""One page about one or several runs: ``work_dirs/NAME/report.html``.

`ReportHook` writes down during a run what mmengine does not: versions, statistics of the labels, figures by class, the
best and worst pictures. `read_run` reads that and what mmengine leaves; `write_report` draws it with matplotlib and
puts it into one file with jinja2. The tools do this after every training and test.
"""

from .hook import ReportHook, add_hook, rewrite
from .page import write_report
from .runs import Run, read_run

__all__ = ['ReportHook', 'Run', 'add_hook', 'read_run', 'rewrite', 'write_report']
