"""Files as they are found: other suffixes, two sets of weights, and what is no checkpoint at all."""

import gzip
import sys
import tarfile
import types

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmsnn.checkpoints import reading
from mmsnn.checkpoints.reading import load_file, load_state
from mmsnn.engine.resuming import damage

STATE = {'conv1.weight': torch.arange(4.0)}


@pytest.mark.parametrize('suffix', ['pth', 'pt', 'th', 'tar', 'pth.tar', 'ckpt', 'bin'])
@pytest.mark.parametrize('legacy', [False, True])
def test_suffixes(tmp_path, suffix, legacy):
    file = tmp_path / f'weights.{suffix}'
    torch.save(dict(state_dict=STATE), file, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(load_state(file)['conv1.weight'], STATE['conv1.weight'])


@pytest.mark.parametrize('name', ['state_dict', 'model', 'model_state_dict', 'net', 'weights', 'model_ema'])
def test_names_of_the_entry(tmp_path, name):
    torch.save({name: STATE, 'epoch': 3}, tmp_path / 'file.pth')
    assert list(load_state(tmp_path / 'file.pth')) == ['conv1.weight']


class TestAverages:
    @pytest.fixture
    def said(self, monkeypatch):
        lines = []
        monkeypatch.setattr(reading, 'print_log', lambda text, **_: lines.append(text))
        reading._say_once.cache_clear()
        return lines

    def load(self, tmp_path, **content):
        torch.save(content, tmp_path / 'file.pth')
        return load_state(tmp_path / 'file.pth')

    def test_are_mentioned(self, tmp_path, said):
        average = {'conv1.weight': torch.zeros(4)}
        assert torch.equal(
            self.load(tmp_path, state_dict=STATE, state_dict_ema=average)['conv1.weight'], torch.arange(4.0)
        )
        # once, however often the file is read
        load_state(tmp_path / 'file.pth')
        assert len(said) == 1
        assert 'state_dict, the last weights, is read' in said[0] and '--key state_dict_ema' in said[0]

    def test_of_mmengine(self, tmp_path, said):
        """Its hook writes the averages where others have the last weights."""
        self.load(tmp_path, state_dict=STATE, ema_state_dict={'module.conv1.weight': torch.zeros(4)}, message_hub={})
        assert 'state_dict, moving averages, is read. For ema_state_dict, the last weights' in said[0]

    def test_nothing_is_said_of_others(self, tmp_path, said):
        self.load(tmp_path, state_dict=STATE, optimizer={})
        self.load(tmp_path, state_dict_ema=STATE)
        assert not said


class TestSafetensors:
    def test_is_read(self, tmp_path, monkeypatch):
        file = tmp_path / 'model.safetensors'
        file.write_bytes(b'content')
        package = types.ModuleType('safetensors.torch')
        package.load_file = lambda path: STATE if path == file else None
        monkeypatch.setitem(sys.modules, 'safetensors', types.ModuleType('safetensors'))
        monkeypatch.setitem(sys.modules, 'safetensors.torch', package)
        assert load_state(file) == STATE

    def test_real_file(self, tmp_path):
        torch_part = pytest.importorskip('safetensors.torch')
        torch_part.save_file(STATE, tmp_path / 'model.safetensors')
        assert torch.equal(load_state(tmp_path / 'model.safetensors')['conv1.weight'], STATE['conv1.weight'])
        (tmp_path / 'model.safetensors').write_bytes(b'nothing')
        with pytest.raises(ValueError, match='model.safetensors was not loaded: it is damaged'):
            load_state(tmp_path / 'model.safetensors')

    def test_package_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
        (tmp_path / 'model.safetensors').write_bytes(b'content')
        with pytest.raises(ImportError, match='model.safetensors needs the package safetensors: pip install'):
            load_state(tmp_path / 'model.safetensors')


def test_what_is_no_checkpoint_is_named(tmp_path):
    file = tmp_path / 'file.pth'
    for content, what in (
        (b'\n<!DOCTYPE html><html>', 'a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'a pointer of Git LFS'),
        (gzip.compress(b'x'), 'compressed with gzip'),
        (b'', 'damaged'),
        (b'just text', 'damaged'),
        (bytes(2000), 'zeros.*take an earlier one'),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f'file.pth .*{what}'):
            load_file(file)
    with tarfile.open(file, 'w') as archive:
        archive.add(__file__, 'inside.py')
    with pytest.raises(ValueError, match='file.pth is not a checkpoint but a tar archive: unpack it'):
        load_file(file)


@pytest.mark.parametrize('length', [1, 64, 1000, 30_000, 65_000, 70_000, 100_000])
def test_a_file_that_was_cut_off_is_named(tmp_path, length):
    file = tmp_path / 'file.pth'
    torch.save(dict(state_dict=dict(a=torch.rand(30_000))), file)
    content = file.read_bytes()
    file.write_bytes(content[:length])
    with pytest.raises(ValueError, match='file.pth was not loaded: it is damaged'):
        load_file(file)


def test_a_file_with_a_wrong_checksum_is_refused(tmp_path):
    """torch reads it, with other numbers."""
    file = tmp_path / 'file.pth'
    torch.save(dict(state_dict=dict(a=torch.rand(30_000))), file)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = bytes(4)
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)['state_dict']['a'].numel() == 30_000
    with pytest.raises(ValueError, match='file.pth was not loaded.*checksum of .* is wrong'):
        load_file(file)
    assert 'checksum' in damage(file)


def test_a_file_with_a_damaged_header_is_refused(tmp_path):
    """That of a record, where zipfile raises before it has a checksum."""
    file = tmp_path / 'file.pth'
    torch.save(dict(state_dict=dict(a=torch.rand(30_000))), file)
    content = bytearray(file.read_bytes())
    content[:4] = bytes(4)
    file.write_bytes(content)
    with pytest.raises(ValueError, match='file.pth was not loaded'):
        load_file(file)
    assert damage(file)


class Asks:
    """An object whose pickle calls ``getattr``."""

    def __init__(self, owner, name):
        self.arguments = owner, name

    def __reduce__(self):
        return getattr, self.arguments


def test_getattr_in_a_file(tmp_path):
    """mmengine allows it for its log buffers, and any object's attributes are a way to code; the buffers still load."""
    path = tmp_path / 'x.pth'
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save(dict(state_dict=dict(a=torch.ones(1)), history=buffer), path)
    assert load_file(path)['history'].mean() == 2
    for owner, name in ((HistoryBuffer, '__init__'), (HistoryBuffer, 'register_statistics'), (buffer, 'mean')):
        torch.save(dict(state_dict=dict(a=torch.ones(1)), history=Asks(owner, name)), path)
        with pytest.raises(ValueError, match='could run code'):
            load_file(path)
