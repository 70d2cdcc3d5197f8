"""mmsnn list, completion, and help without the imports of a command."""

import runpy
import subprocess
import sys

import pytest

from mmsnn import quick_help
from mmsnn.__main__ import completion, scripts
from mmsnn.shipped import home

LIST = runpy.run_path(str(home() / 'tools' / 'list.py'))


def names(kind, pattern=None):
    return [name for name, _ in LIST['find'](kind, pattern)]


def test_all_registered_neurons_and_models_are_listed(neuron_type):
    assert neuron_type.__name__ in names('neurons')


def test_backbones_are_listed(backbone_type):
    assert backbone_type.__name__ in names('models')


def test_patterns():
    assert 'mmsnn::sakd/retinanet_sew18_bccd.py' in names('configs', 'bccd')
    assert names('configs', 'mmsnn::sakd/*bccd*') == [n for n in names('configs', 'bccd') if '::sakd/' in n]
    assert names('losses', 'featuremse') == ['FeatureMSE']


def test_every_config_says_nothing_or_its_data():
    assert dict(LIST['find']('configs'))['mmsnn::sakd/retinanet_sew18_bccd.py'].startswith('BCCD')


def test_nothing_found_is_an_error(capsys):
    with pytest.raises(SystemExit, match="nothing matches 'no such'"):
        LIST['main'](['models', 'no such'])


@pytest.mark.parametrize('command', ['train', 'test', 'deploy', 'check'])
def test_quick_help_is_that_of_the_command(command, capsys):
    path = scripts()[command]
    assert quick_help.show(path, ['--help'])
    quick = capsys.readouterr().out
    parse = runpy.run_path(str(path))['parse_args']
    sys.argv, before = [str(path)], sys.argv
    try:
        with pytest.raises(SystemExit):
            parse(['--help'])
    finally:
        sys.argv = before
    assert quick == capsys.readouterr().out
    assert '--cfg-options' in quick


def test_quick_help_leaves_no_stand_in_behind():
    import mmsnn.checkpoints.transfer

    before = mmsnn.checkpoints.transfer, mmsnn.ops.lif
    assert quick_help.show(scripts()['test'], ['--help'])
    assert (mmsnn.checkpoints.transfer, mmsnn.ops.lif) == before
    assert sys.modules['mmsnn.checkpoints.transfer'] is before[0]


def test_quick_help_imports_no_torch():
    code = (
        'import sys; from mmsnn.__main__ import main\n'
        'main(["train", "--help"])\n'
        'assert "torch" not in sys.modules and "mmengine" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.DEVNULL)


def test_help_that_depends_on_an_import_is_not_invented(tmp_path, capsys):
    tool = tmp_path / 'tool.py'
    tool.write_text(
        'import argparse, some_library\n'
        'def parse_args(argv=None):\n'
        '    parser = argparse.ArgumentParser()\n'
        '    parser.add_argument("--device", help=f"default: {some_library.device()}")\n'
        '    return parser.parse_args(argv)\n'
    )
    assert not quick_help.show(tool, ['--help'])
    assert capsys.readouterr().out == ''


def test_bash_completes_commands_and_options():
    code = completion('bash') + '\nCOMP_WORDS=(mmsnn %s); COMP_CWORD=%d; _mmsnn; echo "${COMPREPLY[@]}"'
    run = dict(capture_output=True, text=True, check=True)
    assert 'deploy' in subprocess.run(['bash', '-c', code % ('dep', 1)], **run).stdout.split()
    assert '--resume' in subprocess.run(['bash', '-c', code % ('train --re', 2)], **run).stdout.split()
    for kind in (*LIST['KINDS'], *LIST['FILES']):
        assert kind in subprocess.run(['bash', '-c', code % (f'list {kind[:3]}', 2)], **run).stdout.split()


def test_other_shells_are_refused():
    assert 'bashcompinit' in completion('zsh')
    assert '-l resume' in completion('fish')
    with pytest.raises(SystemExit, match='not for'):
        completion('tcsh')
