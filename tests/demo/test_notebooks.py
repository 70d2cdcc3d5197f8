"""The notebooks of demo/ run from top to bottom, with less to do."""

import importlib.util
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / 'demo'
LESS = {
    'plain_pytorch': 'EPOCHS, T = 1, 4',
    'distil_detector': 'IMAGES, TEACHER_EPOCHS, STUDENT_EPOCHS = 10, 1, 1',
}
missing = [name for name in ('nbclient', 'ipykernel') if not importlib.util.find_spec(name)]


@pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}: pip install -e '.[dev]'")
@pytest.mark.parametrize('name', LESS)
def test_runs(name, tmp_path, monkeypatch):
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from nbclient import NotebookClient

    notebook = nbformat.read(DEMO / f'{name}.ipynb', as_version=4)
    (given,) = (cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', ()))
    given.source = LESS[name]
    client = NotebookClient(notebook, timeout=400, resources=dict(metadata=dict(path=str(tmp_path))))
    # the Python of the tests, whatever kernels are installed
    client.create_kernel_manager()
    client.km._kernel_spec = KernelSpec(argv=[sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}'])
    client.execute()
    pictures = [o for cell in notebook.cells for o in cell.get('outputs', ()) if 'image/png' in o.get('data', {})]
    assert len(pictures) == 2
    text = ''.join(o['text'] for cell in notebook.cells for o in cell.get('outputs', ()) if o.output_type == 'stream')
    assert {'plain_pytorch': 'accuracy on 360 test images', 'distil_detector': 'mAP: teacher'}[name] in text


@pytest.mark.parametrize('name', LESS)
def test_is_shown_as_it_runs(name):
    """What is shipped was run from top to bottom, without an error."""
    import json

    cells = [c for c in json.loads((DEMO / f'{name}.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
    assert [c['execution_count'] for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c['outputs'] if o['output_type'] == 'error']
