"""What an installation holds: the configs, tools and demos that OpenMMLab and ``python -m mmsnn`` look for."""

import gc
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

import mmsnn
from mmsnn import __main__ as cli
from mmsnn import refusals
from mmsnn.import_hook import MENDS
from mmsnn.ops import extension

REPO = Path(__file__).parents[1]
PARTS = (
    'mmsnn',
    'configs',
    'weights',
    'tools',
    'demo',
    'setup.py',
    'pyproject.toml',
    'README.md',
    'MANIFEST.in',
    'model-index.yml',
)


@pytest.fixture(autouse=True, scope='module')
def without_cuda_kernels():
    """They take minutes to compile; tests/ops/test_cuda.py does that."""
    os.environ['MMSNN_CUDA'] = '0'
    yield
    del os.environ['MMSNN_CUDA']


def run(*command, **kwargs):
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the sources: builds leave litter, and an old build folder would hide what is missing."""
    folder = tmp_path_factory.mktemp('source')
    for part in PARTS:
        if (REPO / part).is_dir():
            shutil.copytree(REPO / part, folder / part, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy2(REPO / part, folder / part)
    return folder


@pytest.fixture
def setup(monkeypatch):
    """The functions of setup.py, which builds nothing where it is asked for a name."""
    monkeypatch.setattr(sys, 'argv', ['setup.py', '--name'])
    return runpy.run_path(str(REPO / 'setup.py'))


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    """Of kernels that this clone's installation compiled from these sources, where it did; that takes minutes."""
    built = source / 'build' / f'lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}' / 'mmsnn' / 'ops'
    library = extension.compiled()
    if library is not None and library.mmsnn_sources().decode() == extension.sources_digest():
        built.mkdir(parents=True)
        shutil.copy(library._name, built)
    out = tmp_path_factory.mktemp('wheel')
    run('-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', out, source)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """The environment of a process that sees the installed wheel before anything else."""
    target = tmp_path_factory.mktemp('installed')
    run('-m', 'pip', 'install', '--no-deps', '--no-index', '--no-compile', '--target', target, wheel)
    return {**os.environ, 'PYTHONPATH': str(target)}


def test_wheel_holds_what_openmmlab_looks_for(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [
        REPO / 'model-index.yml',
        *(path for part in ('configs', 'tools', 'demo') for path in (REPO / part).rglob('*')),
    ]
    kinds = ('.py', '.sh', '.yml', '.ipynb')
    wanted = [
        path.relative_to(REPO).as_posix() for path in files if path.suffix in kinds and '-checkpoint' not in path.stem
    ]
    missing = {f'mmsnn/.mim/{path}' for path in wanted} - names
    assert not missing
    assert not [name for name in names if name.endswith('.pyc') or name.startswith('tests')]
    assert extension.compiled() is None or len([name for name in names if name.startswith('mmsnn/ops/_C')]) == 1


def test_editable_install_links_without_a_compiler(source, tmp_path):
    """With one, it compiles what the wheel does, which takes minutes."""
    command = f'from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})'
    env = {**os.environ, 'CXX': 'false'}
    done = subprocess.run([sys.executable, '-c', command], cwd=source, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'the compiled kernels are skipped: ' in done.stderr and 'plain PyTorch will serve' in done.stderr
    assert 'mmsnn.pth' in zipfile.ZipFile(next(tmp_path.glob('*.whl'))).namelist()
    for part in ('configs', 'tools', 'demo', 'model-index.yml'):
        link = source / 'mmsnn' / '.mim' / part
        assert link.is_symlink() and link.resolve() == (source / part).resolve()


@pytest.mark.parametrize(
    'command, asked, driver, wanted',
    [
        # A wheel is built for machines that are not this one.
        ('bdist_wheel', None, False, True),
        ('bdist_wheel', None, True, True),
        ('bdist_wheel', '0', True, False),
        # What is installed in place is for this one.
        ('editable_wheel', None, False, False),
        ('editable_wheel', None, True, True),
        ('editable_wheel', '1', False, True),
        ('editable_wheel', '0', True, False),
        ('build_ext --inplace', '', False, False),
    ],
)
def test_when_cuda_is_compiled(setup, command, asked, driver, wanted):
    assert setup['wants_cuda'](['setup.py', *command.split()], asked, driver) is wanted


def test_a_changed_header_is_compiled_again(setup):
    """Otherwise an installation from the clone keeps the kernels of the sources before, and says that it succeeded."""
    (extension,) = setup['kernels']()[0]
    headers = {p.name for p in (REPO / 'mmsnn/ops/csrc').iterdir() if p.suffix in ('.h', '.cuh')}
    assert headers and headers <= {Path(name).name for name in extension.depends}


def test_cuda_that_cannot_be_compiled_is_named(setup, monkeypatch, capsys):
    cpp_extension = pytest.importorskip('torch.utils.cpp_extension')
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', None)
    for asked, said in (('1', True), ('0', False)):
        monkeypatch.setenv('MMSNN_CUDA', asked)
        assert [e.name for e in setup['kernels']()[0]] == ['mmsnn.ops._C']
        assert ("CUDA's kernels are skipped: MMSNN_CUDA=1 needs nvcc" in capsys.readouterr().err) == said


def test_installed_commands(installed, tmp_path):
    listing = run('-m', 'mmsnn', cwd=tmp_path, env=installed)
    assert {'train', 'test', 'env'} <= {line.split()[0] for line in listing.splitlines() if line.startswith('  ')}


SCRIPT = """
import mmsnn, mmengine.hub
from mmengine.config import Config
print(mmsnn.__file__)
for base in {bases!r}:
    open('child.py', 'w').write(f'_base_ = {{base!r}}')
    assert Config.fromfile('child.py').model, base
    assert mmengine.hub.get_config(base).model, base
"""

BASES = [
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py',
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
]


def own_base():
    """A training config of ours, by its cross-library name."""
    folder = REPO / 'configs'
    first = next(path for path in sorted(folder.glob('[a-z]*/*.py')))
    return f'mmsnn::{first.relative_to(folder).as_posix()}'


def test_installed_configs_are_bases(installed, tmp_path):
    out = run('-c', SCRIPT.format(bases=[own_base(), *BASES]), cwd=tmp_path, env=installed)
    assert out.splitlines()[0].startswith(installed['PYTHONPATH'])


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    """Python of a fresh environment that holds the wheel, beside the libraries that this one has."""
    folder = tmp_path_factory.mktemp('environment')
    run('-m', 'venv', '--without-pip', folder)
    python = folder / 'bin' / 'python'
    paths = sysconfig.get_paths()
    # behind its own, and without the start-up hooks that lie there
    site = next(folder.glob('lib/python*/site-packages'))
    (site / 'libraries.pth').write_text('\n'.join({paths['purelib'], paths['platlib']}))
    # pip takes an installation that it finds on PYTHONPATH for that of the environment
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    run('-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', '--no-compile', wheel, env=env)
    assert (site / 'mmsnn.pth').is_file() and (folder / 'bin' / 'mmsnn').is_file()
    yield python
    run('-m', 'pip', '--python', python, 'uninstall', '-y', 'mmsnn', env=env)
    assert not [path for path in site.iterdir() if 'mmsnn' in path.name] and not (folder / 'bin' / 'mmsnn').exists()


def inside(python, *command, cwd, **variables):
    """What a command says in the fresh environment; no path of this process leads into it."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    env |= dict(MPLBACKEND='agg', OMP_NUM_THREADS='1', **variables)
    done = subprocess.run([python, *map(str, command)], capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_console_script(environment, tmp_path):
    listing = inside(environment.with_name('mmsnn'), cwd=tmp_path)
    assert {'train', 'test', 'env'} <= {line.split()[0] for line in listing.splitlines() if line.startswith('  ')}


@pytest.mark.parametrize('mmsnn_package', ['raise OSError', None])
def test_start_up_survives_a_broken_package(environment, tmp_path, mmsnn_package):
    (tmp_path / 'mmengine.py').write_text('print("imported")')
    (tmp_path / 'mmsnn').mkdir()
    if mmsnn_package is not None:
        (tmp_path / 'mmsnn' / '__init__.py').write_text(mmsnn_package)
    for code, said in (('pass', ''), ('import mmengine', 'imported\n')):
        assert inside(environment, '-c', code, cwd=tmp_path, PYTHONPATH=str(tmp_path)) == said


@pytest.mark.parametrize('package', sorted({name.partition('.')[0] for name in MENDS} | {'mmcv'}))
def test_start_up_comes_before_whichever_package_is_first(environment, tmp_path, package):
    (tmp_path / f'{package}.py').write_text('print("theirs")')
    (tmp_path / 'mmsnn').mkdir()
    (tmp_path / 'mmsnn' / '__init__.py').write_text('print("ours")')
    said = inside(environment, '-c', f'import {package}', cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert said == 'ours\ntheirs\n'


def coco(folder):
    """Four pictures of noise with two boxes each, as COCO's files are laid out."""
    import cv2
    from mmdet.datasets import CocoDataset

    rng = np.random.default_rng(0)
    classes = CocoDataset.METAINFO['classes']
    for part in ('train2017', 'val2017'):
        (folder / part).mkdir(parents=True)
        (folder / 'annotations').mkdir(exist_ok=True)
        images, boxes = [], []
        for i in range(4):
            cv2.imwrite(str(folder / part / f'{i}.jpg'), rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
            images.append(dict(id=i, file_name=f'{i}.jpg', height=64, width=96))
            for c in range(2):
                box = dict(bbox=[5 + 9 * c, 4, 40, 40], area=1600, iscrowd=0)
                boxes.append(dict(id=2 * i + c + 1, image_id=i, category_id=c + 1, **box))
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(classes)]
        content = dict(images=images, annotations=boxes, categories=categories)
        (folder / 'annotations' / f'instances_{part}.json').write_text(json.dumps(content))


OURS = """
import torch
from mmsnn.__main__ import main
from mmsnn.building import build_model, read

teacher = build_model(read('mmsnn::ann/retinanet_r34_coco.py'))
torch.save(dict(state_dict=teacher.state_dict()), 'teacher.pth')
options = ['--cfg-options', 'model.backbone.T=2', 'model.teacher_checkpoint=teacher.pth', 'train_cfg.max_epochs=1']
for part, i in (('train', 2), ('val', 1), ('test', 1)):
    loader = f'{part}_dataloader'
    options += [f'{loader}.num_workers=0', f'{loader}.dataset.pipeline.{i}.scale=(96,64)']
main(['train', 'mine.py', *options])
main(['test', 'mine.py', 'work_dirs/mine/epoch_1.pth', '--benchmark', *options])
main(['image_demo', 'data/coco/val2017/0.jpg', 'mine.py', 'work_dirs/mine/epoch_1.pth', *options])
print('its backbone is a', type(build_model(read('changed.py')).backbone).__name__)
"""

THEIRS = """
import runpy, sys
from pathlib import Path
assert 'mmsnn' not in sys.modules
import mmdet
tools = Path(mmdet.__file__).parent / '.mim' / 'tools'

def tool(name, *arguments):
    sys.argv = [name, *arguments]
    runpy.run_path(str(tools / name), run_name='__main__')

small = ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
small.append('test_dataloader.dataset.pipeline.1.scale=(96,64)')
tool('test.py', 'mine.py', 'work_dirs/mine/epoch_1.pth', '--out', 'found.pkl', '--cfg-options', *small)
tool('analysis_tools/browse_dataset.py', 'mine.py', '--not-show', '--output-dir', 'browsed')
from mmdet.apis import DetInferencer, init_detector
for model in (init_detector('mine.py', 'work_dirs/mine/epoch_1.pth', device='cpu'),
              DetInferencer('mine.py', 'work_dirs/mine/epoch_1.pth', device='cpu').model):
    print('is a', type(model).__name__, type(model.backbone).__name__)
"""


def test_what_the_readme_shows(environment, tmp_path):
    """From a wheel, in a folder that holds two configs of README.md and data: our tools, then mmdet's own."""
    blocks = re.findall(r'```python\n(.*?)```', (REPO / 'README.md').read_text(encoding='utf-8'), re.DOTALL)
    for file, mark in (('mine.py', 'mmsnn.Distiller'), ('changed.py', "'mmdet::")):
        (tmp_path / file).write_text(next(block for block in blocks if mark in block))
    coco(tmp_path / 'data' / 'coco')
    said = inside(environment, '-c', OURS, cwd=tmp_path)
    assert 'model.backbone.T is read as model.student.backbone.T' in said
    assert re.search(r'Epoch\(train\).*loss_feature', said) and 'its backbone is a SEWResNet' in said
    assert (tmp_path / 'work_dirs' / 'mine' / 'benchmark.json').is_file()
    assert (tmp_path / 'work_dirs' / 'image_demo' / '0.png').is_file()
    said = inside(environment, '-c', THEIRS, cwd=tmp_path)
    assert said.count('is a RetinaNet SEWResNet') == 2
    assert len([*(tmp_path / 'browsed').iterdir()]) == 4 and (tmp_path / 'found.pkl').is_file()


TEACHER = ['--cfg-options', 'model.teacher_checkpoint=mmsnn://retinanet_r18_digits']
QUARTER = """
from mmsnn.__main__ import main
from mmsnn.datasets import make_digit_scenes

def run(*arguments):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)


make_digit_scenes('data/digit_scenes', num_train=8, num_val=4)
config, weights = 'mmsnn::spiking/retinanet_sew18_digits.py', 'mmsnn://retinanet_sew18_digits_sakd'
run('list', 'weights')
run('test', config, weights, '--benchmark', '--work-dir', 'tested')
run('look', config, weights, 'data/digit_scenes/images/val/000000.jpg', '--out', 'look.html')
short = ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
run('train', 'mmsnn::sakd/retinanet_sew18_digits.py', *TEACHER, *short)
run('report', 'work_dirs/retinanet_sew18_digits')
run('deploy', config, weights, '--to', 'onnx', '--out', 'net.onnx', '--verify', '2')

import numpy
import onnxruntime

session = onnxruntime.InferenceSession('net.onnx')
found = session.run(None, {session.get_inputs()[0].name: numpy.zeros((3, 3, 128, 128), 'float32')})
print('ONNX Runtime answers', len(found), 'maps for', len(found[0]), 'images')
"""


def test_a_newcomers_quarter_of_an_hour(environment, tmp_path):
    """From a wheel, in an empty folder, with shipped weights: list, check, test, look, train, report, deploy."""
    pytest.importorskip('sklearn', reason='draws the digits: pip install mmsnn[demo]')
    pytest.importorskip('onnxruntime', reason='runs what is deployed: pip install mmsnn[onnx]')
    said = inside(environment, '-c', f'TEACHER = {TEACHER}\n{QUARTER}', cwd=tmp_path)
    checked = ['check', 'mmsnn::sakd/retinanet_sew18_digits.py', *TEACHER]
    assert '0 errors' in inside(environment, '-m', 'mmsnn', *checked, cwd=tmp_path)
    assert 'mmsnn://retinanet_sew18_digits_sakd' in said
    assert re.search(r'Epoch\(train\).*loss_feature', said)
    assert 'ONNX Runtime answers 6 maps for 3 images' in said
    assert (tmp_path / 'tested' / 'benchmark.json').is_file() and (tmp_path / 'look.html').is_file()
    report = tmp_path / 'work_dirs' / 'retinanet_sew18_digits' / 'report.html'
    assert 'loss_feature' in report.read_text(encoding='utf-8')


@pytest.mark.skipif(not (Path(mmsnn.__file__).parent / '.mim').is_dir(), reason='needs pip install -e .')
def test_editable_configs_are_bases(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {own_base()!r}')
    assert Config.fromfile(child).model


class TestCommands:
    def test_every_script_has_a_name_and_a_line_of_its_own(self):
        files = [path for folder in ('tools', 'demo') for path in (REPO / folder).rglob('*.py')]
        names = Counter(path.stem for path in files if '__main__' in path.read_text())
        assert max(names.values()) == 1
        assert 'env' not in names
        assert all(len(line.split()) > 1 for line in cli.listing().splitlines() if line.startswith('  '))

    def test_arguments_arrive(self, tmp_path, monkeypatch, capsys):
        (tmp_path / 'tools' / 'deeper').mkdir(parents=True)
        (tmp_path / 'demo').mkdir()
        script = (
            '"""Say.\n\nMore."""\nimport sys\nimport neighbour_of_say\nif __name__ == "__main__": print(sys.argv[1:])'
        )
        (tmp_path / 'tools' / 'deeper' / 'say.py').write_text(script)
        (tmp_path / 'tools' / 'deeper' / 'neighbour_of_say.py').touch()
        monkeypatch.setattr(cli, 'home', lambda: tmp_path)
        monkeypatch.setattr(sys, 'argv', sys.argv)
        monkeypatch.setattr(sys, 'path', [*sys.path])
        cli.main(['say', 'a', '--b'])
        assert capsys.readouterr().out == "['a', '--b']\n"
        cli.main([])
        listing = capsys.readouterr().out
        assert 'Say.' in listing and 'neighbour' not in listing

    def test_unknown(self):
        with pytest.raises(SystemExit, match="no command 'trian'"):
            cli.main(['trian'])

    def test_a_refusal_comes_without_a_traceback(self, tmp_path, monkeypatch):
        """Faults of the program, and of others' code, keep theirs, and --verbose shows all."""
        (tmp_path / 'tools').mkdir()
        (tmp_path / 'demo').mkdir()
        tool = (
            'from mmsnn.refusals import run_main\ndef main():\n    {}\nif __name__ == "__main__":\n    run_main(main)'
        )
        lines = "raise ValueError('model.T: must be 1 or more')", 'int("x")', "raise RuntimeError('a fault')"
        for name, line in zip(('refuse', 'slip', 'fault'), lines):
            (tmp_path / 'tools' / f'{name}.py').write_text(tool.format(line))
        monkeypatch.setattr(cli, 'home', lambda: tmp_path)
        monkeypatch.setattr(refusals, 'home', lambda: tmp_path)
        monkeypatch.setattr(sys, 'argv', sys.argv)
        monkeypatch.setattr(sys, 'path', [*sys.path])
        with pytest.raises(SystemExit) as refused:
            cli.main(['refuse'])
        assert refused.value.code == 'refuse.py: ValueError: model.T: must be 1 or more'
        for arguments, kind in (
            (['refuse', '--verbose'], ValueError),
            (['slip'], ValueError),
            (['fault'], RuntimeError),
        ):
            with pytest.raises(kind):
                cli.main(arguments)

    @pytest.mark.parametrize('begun_as, frozen', [(['mmsnn', 'say', '--b'], [1]), (['python', 'mine.py'], [])])
    def test_what_a_caller_has_stays_garbage(self, tmp_path, monkeypatch, begun_as, frozen):
        """A command alone spares the search for garbage; in a notebook that would keep what is no longer used."""
        (tmp_path / 'tools').mkdir()
        (tmp_path / 'demo').mkdir()
        (tmp_path / 'tools' / 'say.py').write_text(
            'from mmsnn.refusals import run_main\nif __name__ == "__main__":\n    run_main(dict)'
        )
        monkeypatch.setattr(cli, 'home', lambda: tmp_path)
        monkeypatch.setattr(sys, 'argv', sys.argv)
        monkeypatch.setattr(sys, 'path', [*sys.path])
        monkeypatch.setattr(sys, 'orig_argv', begun_as)
        calls = []
        monkeypatch.setattr(refusals.gc, 'freeze', lambda: calls.append(1))
        cli.main(['say', '--b'])
        assert calls == frozen
        # whoever sets sys.argv and calls it is not left without collections
        monkeypatch.setattr(sys, 'argv', ['mmsnn', 'say', '--b'])
        cli.main()
        assert gc.isenabled()

    def test_environment(self, capsys):
        cli.main(['env'])
        rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert rows['mmsnn'] == mmsnn.__version__
        assert {'torch', 'torchvision', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'spikingjelly', 'GPU'} <= set(rows)
