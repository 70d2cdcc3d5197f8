"""R18: nothing in a checkpoint is executed, whatever door it comes in by, and none takes memory by its claims."""

import codecs
import json
import os
import pickle
import runpy
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

import cli
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmsnn.checkpoints.reading import load_file

pytestmark = pytest.mark.row('R18')


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A config, and the checkpoint of a training."""
    home = tmp_path_factory.mktemp('home')
    cli.write_detector(home)
    cli.main('train', home / 'detector.py', '--work-dir', home / 'run')
    return home


@pytest.fixture
def mark(tmp_path):
    """A file that appears where code is executed."""
    return tmp_path / 'executed'


def touch(mark) -> Calls:
    return Calls(os.system, f'touch {mark}')


def getattr_chain(mark):
    """What mmengine's list of safe names allows: getattr, and with it everything."""
    system = Calls(getattr, Calls(getattr, HistoryBuffer, '__init__'), '__globals__')
    return dict(a=system, b=touch(mark))


IN_A_CHECKPOINT = {
    'a call of os.system': lambda content, mark: {**content, 'more': touch(mark)},
    'in the state dict': lambda content, mark: {**content, 'state_dict': {**content['state_dict'], 'x': touch(mark)}},
    'in the optimizer': lambda content, mark: {**content, 'optimizer': touch(mark)},
    'a call of eval': lambda content, mark: {**content, 'x': Calls(eval, f'open({str(mark)!r}, "w")')},
    'a call of exec': lambda content, mark: {**content, 'x': Calls(exec, f'open({str(mark)!r}, "w")')},
    'getattr': lambda content, mark: {**content, 'x': getattr_chain(mark)},
    'inside a namespace': lambda content, mark: {**content, 'args': Namespace(x=touch(mark))},
    'inside an array of objects': lambda content, mark: {**content, 'x': np.array([touch(mark)], dtype=object)},
    'a whole model': lambda content, mark: {**content, 'state_dict': Calls(torch.load, str(mark))},
}


def write(home: Path, path: Path, kind: str, mark: Path) -> Path:
    content = load_file(home / 'run' / 'epoch_2.pth')
    if kind in IN_A_CHECKPOINT:
        torch.save(IN_A_CHECKPOINT[kind](content, mark), path)
    elif kind == 'the old format':
        torch.save({**content, 'x': touch(mark)}, path, _use_new_zipfile_serialization=False)
    elif kind == 'a bare pickle':
        path.write_bytes(pickle.dumps(dict(state_dict=touch(mark))))
    return path


def doors(home: Path, tmp_path: Path) -> dict:
    """The ways by which a checkpoint comes in, each given a file."""
    config, work = home / 'detector.py', ('--work-dir', tmp_path / 'work')
    distilled = tmp_path / 'distilled.py'
    distilled.write_text(
        f"_base_ = {str(config)!r}\nmodel = dict(_delete_=True, type='mmsnn.Distiller', student=_base_.model,\n"
        f'    teacher=_base_.model, teacher_checkpoint=None, losses=dict(loss_x=dict(type="FeatureMSE",\n'
        f'    student="backbone.layer4", teacher="backbone.layer4")))\n'
        "custom_hooks = [dict(type='mmsnn.DistillHook')]\n"
    )
    demo = runpy.run_path(str(cli.ROOT / 'demo/image_demo.py'))
    convert = runpy.run_path(str(cli.ROOT / 'tools/model_converters/convert.py'))['main']
    return {
        '--resume': lambda file: cli.main('train', config, *work, '--resume', file),
        '--resume in a folder': lambda file: (
            (tmp_path / 'work').mkdir(),
            os.link(file, tmp_path / 'work' / 'epoch_1.pth'),
            cli.main('train', config, *work, '--resume'),
        ),
        'load_from': lambda file: cli.main('train', config, *work, '--cfg-options', f'load_from={file}'),
        'init_cfg': lambda file: cli.main(
            'train',
            config,
            *work,
            '--cfg-options',
            'model.init_cfg.type=Pretrained',
            f'model.init_cfg.checkpoint={file}',
        ),
        'teacher_checkpoint': lambda file: cli.main(
            'train', distilled, *work, '--cfg-options', f'model.teacher_checkpoint={file}'
        ),
        'test.py': lambda file: cli.main('test', config, file, *work),
        'image_demo.py': lambda file: demo['main'](
            demo['parse_args']([str(home / 'images' / '0.png'), str(config), str(file)])
        ),
        'convert.py': lambda file: convert([str(file), str(tmp_path / 'out.pth'), '--config', str(config)]),
    }


DOORS = (
    '--resume', '--resume in a folder', 'load_from', 'init_cfg', 'teacher_checkpoint', 'test.py', 'image_demo.py',
    'convert.py',
)  # fmt: skip
CASES = [(kind, 'convert.py') for kind in (*IN_A_CHECKPOINT, 'the old format', 'a bare pickle')]
CASES += [(kind, door) for kind in ('a call of os.system', 'getattr') for door in DOORS[:-1]]


@pytest.mark.parametrize('kind, door', CASES)
def test_nothing_is_executed(home, tmp_path, mark, monkeypatch, kind, door):
    monkeypatch.chdir(tmp_path)
    file = write(home, tmp_path / 'hostile.pth', kind, mark)
    with pytest.raises(ValueError, match='could run code'):
        doors(home, tmp_path)[door](file)
    assert not mark.exists()


def test_the_doors_open_to_what_is_sound(home, tmp_path, monkeypatch):
    """So that the refusals above are those of the files."""
    monkeypatch.chdir(tmp_path)
    file = home / 'run' / 'epoch_2.pth'
    for door in ('load_from', 'teacher_checkpoint', 'image_demo.py', 'convert.py'):
        folder = tmp_path / door
        folder.mkdir()
        doors(home, folder)[door](file)


@pytest.mark.parametrize('key', ['config', 'cfg'])
def test_text_of_a_config_is_not_run(home, tmp_path, mark, key):
    """Resuming goes on, and what stands in ``meta`` stays a text."""
    content = load_file(home / 'run' / 'epoch_2.pth')
    content['meta'][key] = f'import os\nos.system("touch {mark}")\nmodel = dict(type=open({str(mark)!r}, "w"))'
    content['meta']['epoch'] = content['meta']['iter'] = 0
    torch.save(content, tmp_path / 'epoch_1.pth')
    doors(home, tmp_path)['--resume'](tmp_path / 'epoch_1.pth')
    assert not mark.exists()


# Claims of size -------------------------------------------------------------------------------------------------------


def held(most: bool = False) -> int:
    """Memory that this process holds, or the ``most`` since it was asked without, in bytes."""
    if not most:
        Path('/proc/self/clear_refs').write_text('5')
    key = 'VmHWM:' if most else 'VmRSS:'
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def inflating(path: Path) -> None:
    """512 MB of zeros in less than 3 MB."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('a/data.pkl', pickle.dumps({}))
        with archive.open('a/data/0', 'w', force_zip64=True) as record:
            for _ in range(512):
                record.write(bytes(1 << 20))
        archive.writestr('a/version', '3\n')


def expanded(path: Path) -> None:
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1).expand(10**6, 10**6)}), path)


def many_expanded(path: Path) -> None:
    torch.save(dict(state_dict={f'x.{i}': torch.zeros(1).expand(2**13, 2**13) for i in range(99)}), path)


def old_storage(path: Path) -> None:
    """The old format says how large storages are before it holds them."""
    torch.save(dict(state_dict=dict(x=torch.zeros(77777))), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    claim = b'J' + struct.pack('<i', 77777)
    assert claim in content
    path.write_bytes(content.replace(claim, b'J' + struct.pack('<i', 2**31 - 1)))


def zip_record(path: Path) -> None:
    """A record whose directory entry claims gigabytes."""
    torch.save(dict(state_dict=dict(x=torch.zeros(77777))), path)
    content = path.read_bytes()
    size = struct.pack('<I', 4 * 77777)
    path.write_bytes(content.replace(size, struct.pack('<I', 2**32 - 2)))


def safetensors_header(path: Path) -> None:
    path.with_suffix('.safetensors').write_bytes(struct.pack('<Q', 2**40) + b'{}')


def safetensors_tensor(path: Path) -> None:
    header = json.dumps(dict(x=dict(dtype='F32', shape=[2**38], data_offsets=[0, 2**40]))).encode()
    path.with_suffix('.safetensors').write_bytes(struct.pack('<Q', len(header)) + header)


def safetensors_shape(path: Path) -> None:
    """More numbers than bytes."""
    header = json.dumps(dict(x=dict(dtype='F32', shape=[2**38], data_offsets=[0, 4]))).encode()
    path.with_suffix('.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + bytes(4))


CLAIMS = (
    inflating, expanded, many_expanded, old_storage, zip_record, safetensors_header, safetensors_tensor,
    safetensors_shape,
)  # fmt: skip


@pytest.mark.parametrize('claim', CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize('door', ['convert.py', '--resume'])
def test_claims_of_enormous_sizes(home, tmp_path, claim, door):
    path = tmp_path / 'hostile.pth'
    if 'safetensors' in claim.__name__:
        pytest.importorskip('safetensors')
    claim(path)
    file = next(tmp_path.glob('hostile.*'))
    before = held()
    with pytest.raises(ValueError, match='hostile'):
        doors(home, tmp_path)[door](file)
    assert held(most=True) - before < 1 << 28


def array(shape, dtype, content) -> Calls:
    """As numpy's arrays lie in pickles."""
    return Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b'b', state=(1, shape, dtype, False, content))


def dtype(kind, fields) -> Calls:
    return Calls(np.dtype, kind, False, True, state=(3, '|', None, ('a',), fields, 8, 1, 0))


def doubled(text: bytes, times: int):
    """Bytes that are written in twice as many, and those again."""
    for _ in range(times):
        text = Calls(codecs.encode, text, 'hex_codec')
    return text


def twice(values: list, times: int) -> list:
    """A list that holds another twice, and that again."""
    for _ in range(times):
        values = [values, values]
    return values


def buffer_of(logs) -> HistoryBuffer:
    """A log buffer whose numbers are another thing."""
    log = HistoryBuffer()
    log._log_history = log._count_history = logs
    return log


ADDRESS, OBJECTS = b'\1' * 8, {'a': (np.dtype('O'), 0)}
# what torch's reader does when it is given mmengine's list of safe names, numpy's functions among them
FALSE_CLAIMS = {
    'bytes taken for objects': lambda: Calls(np.ndarray, (1,), np.dtype('O'), ADDRESS),
    'bytes taken for a field of objects': lambda: Calls(np.ndarray, (1,), Calls(np.dtype, [('a', 'O')]), ADDRESS),
    'bytes under a forged dtype': lambda: array((1,), dtype('V8', OBJECTS), ADDRESS),
    'numbers under a forged dtype': lambda: array((1,), dtype('f8', OBJECTS), ADDRESS),
    'fewer objects than claimed': lambda: array((1 << 20,), np.dtype('O'), [None]),
    'a scalar that is an object': lambda: Calls(np._core.multiarray.scalar, np.dtype('O'), ADDRESS),
    'an array by its class': lambda: Calls(np.ndarray, (1 << 27,), 'O'),
    'an array that begins large': lambda: Calls(np._core.multiarray._reconstruct, np.ndarray, (1 << 27,), 'O'),
    'zeros by their number': lambda: Calls(bytearray, 1 << 30),
    'bytes that double': lambda: doubled(b'a', 30),
    'a copy of what is expanded': lambda: Calls(
        torch._utils._rebuild_device_tensor_from_cpu_tensor, torch.zeros(1).expand(1 << 15, 1 << 14), torch.float64,
        'cpu', False,
    ),
    'room that stays empty': lambda: Calls(torch.Tensor, 1 << 15, 1 << 15),
    'a list that doubles': lambda: Calls(torch.Tensor, twice([1.0], 28)),
    'a list that doubles, as whole numbers': lambda: Calls(torch.ShortTensor, twice([1], 28)),
    'a storage by its size': lambda: Calls(torch.UntypedStorage, 1 << 30),
    'a typed storage by its size': lambda: Calls(torch.storage.TypedStorage, 1 << 28),
    'a log buffer that is called': lambda: Calls(HistoryBuffer, [[[1]]], [[[1]]]),
    'a log buffer of objects': lambda: buffer_of([1, 2]),
}  # fmt: skip


@pytest.mark.parametrize('kind', FALSE_CLAIMS)
def test_what_numpy_and_torch_would_believe(tmp_path, monkeypatch, kind):
    """Refused before memory is asked for, and before an address can be followed."""
    torch.save(dict(state_dict=dict(x=torch.zeros(2)), more=FALSE_CLAIMS[kind]()), tmp_path / 'hostile.pth')
    # what is empty is filled in these tests alone
    monkeypatch.setattr(torch.utils.deterministic, 'fill_uninitialized_memory', False)
    before = held()
    with pytest.raises(ValueError, match='hostile.pth was not loaded'):
        load_file(tmp_path / 'hostile.pth')
    assert held(most=True) - before < 1 << 28


@pytest.mark.parametrize('core', ['_core', 'core'])
def test_what_mmengine_writes_is_read(tmp_path, core):
    """Log buffers and numbers of numpy, also as numpy 1 called them."""
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(log=log, a=np.arange(6.0).reshape(2, 3), b=np.float32(2), c=np.array(['x', None], dtype=object))
    content.update(d=np.zeros((0, 4)), empty=HistoryBuffer())
    torch.save(content, tmp_path / 'whole.pth')
    with zipfile.ZipFile(tmp_path / 'whole.pth') as old, zipfile.ZipFile(tmp_path / 'a.pth', 'w') as new:
        for info in old.infolist():
            new.writestr(info, old.read(info).replace(b'numpy._core', f'numpy.{core}'.encode()))
    found = load_file(tmp_path / 'a.pth')
    assert type(found['log']) is HistoryBuffer
    found['log'].update(6.0)
    assert found['log'].mean() == 3 and log.mean() == 1.5
    assert len(found['empty'].data[0]) == 0
    for name in 'abcd':
        assert np.array_equal(found[name], content[name]) and found[name].dtype == content[name].dtype
    torch.save(found, tmp_path / 'b.pth')
    again = load_file(tmp_path / 'b.pth')
    assert again['log'].mean() == 3 and np.array_equal(again['a'], content['a'])


def test_tensors_with_attributes_are_read(tmp_path):
    """Files name ``torch.Tensor`` beside them, and parameters their own class."""
    tensor, parameter = torch.arange(3.0), torch.nn.Parameter(torch.ones(2))
    tensor.origin = parameter.origin = 'a.pth'
    torch.save(dict(a=tensor, b=parameter, c=torch.zeros(4).untyped_storage()), tmp_path / 'a.pth')
    found = load_file(tmp_path / 'a.pth')
    assert type(found['a']) is torch.Tensor and torch.equal(found['a'], tensor)
    assert type(found['b']) is torch.nn.Parameter and found['a'].origin == found['b'].origin == 'a.pth'
    assert found['c'].tolist() == [0] * 16


@pytest.mark.parametrize('how', ['another width', 'a stage is missing', 'other names'])
def test_weights_that_do_not_fit_are_not_resumed(home, tmp_path, how):
    content = load_file(home / 'run' / 'epoch_2.pth')
    state = content['state_dict']
    if how == 'another width':
        content['state_dict'] = {k: v[:1] if v.dim() == 4 else v for k, v in state.items()}
    elif how == 'a stage is missing':
        content['state_dict'] = {k: v for k, v in state.items() if 'layer3' not in k}
    else:
        content['state_dict'] = {f'net.{k}': v for k, v in state.items()}
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='other.pth'):
        doors(home, tmp_path)['--resume'](tmp_path / 'other.pth')


def test_lists_that_hold_each_other_twice_end(tmp_path):
    content = []
    for _ in range(60):
        content = [content, content]
    torch.save(dict(state_dict=dict(x=torch.zeros(2)), more=content), tmp_path / 'a.pth')
    assert load_file(tmp_path / 'a.pth')['state_dict'].keys() == {'x'}
