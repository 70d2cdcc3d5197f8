"""Exported networks beside PyTorch: outputs, dynamic batch, folded norms, streaming, ONNX, NIR."""

import json
import subprocess
import sys

import cli
import pytest
import torch
from torch import nn

import mmsnn
from mmsnn.deploy.graph import export, fold_norms, plain_neurons, trace, unguarded
from mmsnn.deploy.network import Network, check_encoder
from mmsnn.deploy.streaming import Streaming, lif_nodes
from mmsnn.deploy.verify import Difference
from mmsnn.neurons import LIF
from mmsnn.ops import lif
from mmsnn.registry import MODELS

T = 3


def outputs(network, x):
    with torch.no_grad():
        return network(x)


def check_near(found, expected, share=0.15):
    """Sums are rounded otherwise, and a neuron within rounding of its threshold then fires or not, as what follows."""
    off = ((found - expected).abs() > 1e-4).float().mean().item()
    assert off <= share, f'{off:.1%} of the elements differ'
    assert expected.abs().max() > 0


def backbone(lively, **settings):
    return lively(MODELS.build(dict(type='SEWResNet', depth=18, base_channels=8, T=T, stem='cifar') | settings)).eval()


def graph_of(model, x):
    network = Network(model)
    return network, export(network, x, network.output_names(x))


@pytest.mark.parametrize('neuron', [dict(type='LIF', tau=1.7), dict(type='PLIF'), dict(type='ILIF')])
def test_a_graph_folds_its_norms_and_takes_any_batch(lively, neuron):
    model = backbone(lively, neuron=neuron)
    network, graph = graph_of(model, torch.randn(2, 3, 32, 32))
    assert graph.left == 0
    assert graph.folded == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for batch in (1, 5):
        x = torch.randn(batch, 3, 32, 32)
        for found, expected in zip(outputs(graph.module, x), outputs(model, x)):
            check_near(found, expected)


def test_a_model_is_left_as_it_is(lively):
    model = backbone(lively).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph_of(model, torch.randn(2, 3, 32, 32))
    assert model.training
    assert mmsnn.get_time_steps(model) == T
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class TwoReaders(nn.Module):
    """A convolution whose output is also read in front of its norm, which can therefore not be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean += 1

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_norm_is_not_folded_where_another_reads_its_input():
    net, x = TwoReaders().eval(), torch.randn(2, 3, 8, 8)
    module = unguarded(trace(Network(net), (x,)))
    assert fold_norms(module) == (0, 1)
    torch.testing.assert_close(outputs(module, x)[0], outputs(net, x))


@pytest.mark.parametrize(
    ('norm', 'shape', 'folds'),
    [
        (nn.BatchNorm1d(6), (2, 4), True),
        (nn.BatchNorm1d(6, affine=False), (2, 4), True),
        (nn.BatchNorm1d(6), (2, 6, 4), False),
        (nn.BatchNorm1d(5), (2, 5, 4), False),
    ],
)
def test_a_norm_behind_a_linear_layer(norm, shape, folds):
    """It is folded where it acts on the layer's outputs; on more dimensions it acts on the second."""
    norm.running_mean += torch.rand(norm.num_features)
    norm.running_var *= 2
    net, x = nn.Sequential(nn.Linear(4, 6), norm).eval(), torch.randn(shape)
    module = unguarded(trace(Network(net), (x,)))
    assert fold_norms(module) == (int(folds), int(not folds))
    torch.testing.assert_close(outputs(module, x)[0], outputs(net, x))


def test_a_plain_program_loads_where_mmsnn_is_not_installed(tmp_path):
    x = torch.randn(2 * T, 3, 8, 8)
    network, graph = graph_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), LIF(T)), x)
    torch.export.save(plain_neurons(graph), tmp_path / 'net.pt2')
    torch.save(x, tmp_path / 'x.pt')
    code = (
        'import sys; sys.modules["mmsnn"] = None; import torch; '
        'out = torch.export.load("net.pt2").module()(torch.load("x.pt")); torch.save(out[-1], "out.pt")'
    )
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
    check_near(torch.load(tmp_path / 'out.pt'), outputs(network, x)[-1])


@pytest.mark.parametrize('settings', [{}, dict(neuron=dict(type='LIF', v_reset=None)), dict(neuron=dict(type='PLIF'))])
def test_steps_come_to_the_folded_run(lively, settings):
    model = backbone(lively, **settings)
    x = torch.randn(2, 3, 32, 32)
    stream = Streaming(model, x)
    state = stream.start(2)
    for _ in range(T):
        with torch.no_grad():
            found, state = stream(x, state)
    for a, b in zip(found, outputs(model, x)):
        check_near(a, b)


def test_steps_of_event_frames(lively):
    frames = torch.rand(2, T, 2, 32, 32)
    model = lively(
        MODELS.build(dict(type='SEWResNet', depth=18, base_channels=8, T=T, in_channels=2, stem='cifar')), frames
    ).eval()
    stream = Streaming(model, frames[:, :1])
    state = stream.start(2)
    for t in range(T):
        with torch.no_grad():
            found, state = stream(frames[:, t : t + 1], state)
    check_near(found[-1], outputs(model, frames)[-1])


def test_a_lone_neuron_starts_at_rest():
    (membrane, *_) = Streaming(LIF(T, v_reset=-1.0).eval(), torch.randn(2, 4)).start(batch=3)
    assert membrane.shape == (3, 4) and (membrane == -1).all()


def test_what_tells_steps_apart_does_not_stream(lively):
    model = backbone(lively, norm_cfg=dict(type='mmsnn.TEBN', T=T))
    with pytest.raises(ValueError, match='TEBN.* treats time steps differently'):
        Streaming(model, torch.randn(2, 3, 32, 32))


# ONNX -----------------------------------------------------------------------------------------------------------------

NEURONS = [
    dict(tau=1.7),
    dict(tau=None),
    dict(decay_input=False),
    dict(v_reset=None),
    dict(v_reset=-0.3),
    dict(v_reset=-0.3, decay_input=False),
    dict(v_reset=-0.3, tau=None),
    dict(levels=4, v_reset=None),
    dict(levels=1, rounded=True, v_reset=None),
]


class Neurons(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    def forward(self, x):
        return lif(x, T, **self.settings)


@pytest.mark.parametrize('settings', NEURONS, ids=str)
def test_every_kind_of_neuron_is_the_same_in_onnx(settings, tmp_path):
    onnx = pytest.importorskip('mmsnn.deploy.to_onnx')
    pytest.importorskip('onnxruntime')
    x = torch.randn(2 * T, 5) * 2
    network, graph = graph_of(Neurons(settings), x)
    onnx.save_onnx(graph, tmp_path / 'net.onnx')
    assert onnx.custom_operators(tmp_path / 'net.onnx') == []
    y = torch.randn(4 * T, 5) * 2
    (found,), expected = onnx.OnnxFile(tmp_path / 'net.onnx')(y), network(y)[0]
    assert expected.unique().numel() > 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize('dynamo', [False, True])
def test_torchs_own_exporters_write_onnx_too(lively, dynamo, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model, x = nn.Sequential(nn.Linear(4, 6), LIF(T), nn.Linear(6, 3)).eval(), torch.randn(2 * T, 4) * 3
    torch.onnx.export(model, (x,), tmp_path / 'net.onnx', dynamo=dynamo)
    session = runtime.InferenceSession(tmp_path / 'net.onnx')
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), outputs(model, x))


def test_int8_needs_an_image(tmp_path):
    onnx = pytest.importorskip('mmsnn.deploy.to_onnx')
    pytest.importorskip('onnxruntime')
    network, graph = graph_of(nn.Conv2d(3, 4, 3).eval(), torch.randn(2, 3, 8, 8))
    onnx.save_onnx(graph, tmp_path / 'net.onnx')
    with pytest.raises(ValueError, match='at least one batch of images'):
        onnx.quantise(tmp_path / 'net.onnx', tmp_path / 'net.int8.onnx', [])


def test_int8_stays_near(tmp_path):
    onnx = pytest.importorskip('mmsnn.deploy.to_onnx')
    pytest.importorskip('onnxruntime')
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    network, graph = graph_of(net, x)
    onnx.save_onnx(graph, tmp_path / 'net.onnx')
    onnx.quantise(tmp_path / 'net.onnx', tmp_path / 'net.int8.onnx', x.split(1))
    (found,) = onnx.OnnxFile(tmp_path / 'net.int8.onnx')(x)
    assert not torch.equal(found, outputs(net, x))
    torch.testing.assert_close(found, outputs(net, x), atol=0.1, rtol=0.1)


# NIR ------------------------------------------------------------------------------------------------------------------


def nir_of(model, x):
    pytest.importorskip('nirtorch')
    from mmsnn.deploy.to_nir import NirExport

    return NirExport(model, x)


@pytest.mark.parametrize(
    'neuron', [dict(type='LIF', tau=1.7), dict(type='LIF', decay_input=False), dict(type='IF'), dict(type='PLIF')]
)
def test_nir_is_read_back_equal_by_both_readers(lively, neuron, tmp_path):
    x = torch.randn(1, 3, 16, 16)
    net = backbone(lively, neuron=neuron)
    export_ = nir_of(Last(net), x.repeat(2, 1, 1, 1))
    assert export_.whole
    assert not export_.refusals
    assert export_.parts[0].neurons == len(lif_nodes(export_.module))
    from mmsnn.deploy.nir_readers import read_back

    files = export_.save(tmp_path / 'net.nir')
    (found,) = read_back(export_, files, x.expand(T, *x.shape))
    assert outputs(net, x)[-1].abs().max() > 0
    assert max(found.values()) < 1e-5


class Last(nn.Module):
    """A backbone whose last map goes through pooling to a linear layer."""

    def __init__(self, net):
        super().__init__()
        self.net, self.fc = net, nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(nn.functional.adaptive_avg_pool2d(self.net(x)[-1], 1).flatten(1))


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (dict(stem='imagenet'), 'max_pool2d: NIR has no max pooling'),
        (dict(connect='IAND'), 'mul: NIR has no products'),
        (dict(neuron=dict(type='LIF', v_reset=None)), 'NIR has no soft reset'),
        (dict(neuron=dict(type='ILIF')), 'NIR has no neurons that fire integers'),
    ],
)
def test_nir_names_what_stays_outside(lively, settings, said):
    model = backbone(lively, **settings)
    try:
        found = nir_of(Last(model), torch.randn(2, 3, 32, 32))
    except ValueError as error:
        assert said in str(error)
    else:
        assert not found.whole
        assert any(said in str(refusal) for refusal in found.refusals)
        assert found.parts


# The tool -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, lively):
    """A small classifier with a checkpoint."""
    import mmpretrain.models  # noqa: F401

    file = tmp_path / 'small.py'
    file.write_text(
        "_base_ = 'mmsnn::spiking/spiking_r18_cifar10_small.py'\n"
        'model = dict(backbone=dict(base_channels=8, stem_channels=8, T=2), head=dict(in_channels=64))\n'
    )
    from mmsnn.building import build_model, read

    model = build_model(read(str(file)))
    lively(model.backbone)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'small.pth')
    return file


def run_tool(*arguments):
    import runpy

    from mmsnn.shipped import home

    return runpy.run_path(str(home() / 'tools' / 'deploy.py'))['main']([str(a) for a in arguments])


def test_nir_is_for_spiking_networks(config, tmp_path):
    pytest.importorskip('nir')
    ann = tmp_path / 'ann.py'
    ann.write_text(
        f"_base_ = {str(config)!r}\nmodel = dict(backbone=dict(_delete_=True, type='ResNet_CIFAR', depth=18), "
        'head=dict(in_channels=512))\n'
    )
    from mmsnn.building import build_model, read

    torch.save(dict(state_dict=build_model(read(str(ann))).state_dict()), tmp_path / 'ann.pth')
    with pytest.raises(SystemExit, match='--to nir: .*ann.py has no spiking neuron'):
        run_tool(ann, tmp_path / 'ann.pth', '--to', 'nir', '--out', tmp_path / 'ann.nir')


@pytest.mark.parametrize('options', [['--to', 'pt2'], ['--to', 'onnx', '--streaming'], ['--to', 'nir']])
def test_the_tool_writes_a_file_and_a_card(config, tmp_path, options):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('nirtorch')
    out = tmp_path / f'out.{options[1]}'
    found = run_tool(config, config.with_suffix('.pth'), *options, '--out', out)
    assert out.is_file()
    assert found['T'] == 2
    assert found['files'].keys() == {out.name}
    # each export has its own, also beside another of the same name
    assert out.with_name(f'{out.name}.card.json').is_file()
    assert found['inputs']['mean']
    if 'nir' in options:
        assert found['whole']
    else:
        assert found['difference_on_random_inputs']['file']['largest'] < 1e-4


def test_the_tool_verifies_a_detector_and_its_int8_form(tmp_path):
    """On images of several sizes, which are padded to the exported one."""
    pytest.importorskip('onnxruntime')
    file = cli.write_detector(tmp_path)
    file.write_text(file.read_text().replace('keep_ratio=False', 'keep_ratio=True'))
    cli.image(tmp_path / 'images', '1.png', 1, (64, 48))
    annotations = json.loads((tmp_path / 'ann.json').read_text())
    annotations['images'][1]['width'] = 48
    (tmp_path / 'ann.json').write_text(json.dumps(annotations))
    from mmsnn.building import build_model, read

    torch.save(dict(state_dict=build_model(read(str(file))).state_dict()), tmp_path / 'net.pth')
    found = run_tool(
        file, tmp_path / 'net.pth', '--to', 'onnx', '--out', tmp_path / 'net.onnx', '--shape', 64, 64,
        '--verify', 4, '--int8', '--calibrate', 4,
    )  # fmt: skip
    tested = found['test_set']
    assert tested.keys() >= {'net.onnx', 'net.int8.onnx'}
    assert all('coco/bbox_mAP' in each['metrics'] for each in tested.values())
    assert tested['net.onnx']['difference']['inputs'] == 4


def test_the_tool_refuses_a_wrong_suffix(config, capsys):
    with pytest.raises(SystemExit):
        run_tool(config, config.with_suffix('.pth'), '--to', 'onnx', '--out', 'net.pt')
    assert '--out: the file must end with .onnx' in capsys.readouterr().err


@pytest.mark.parametrize('wrong', [float('inf'), float('nan')])
def test_an_output_that_is_not_finite_is_refused(wrong):
    with pytest.raises(ValueError, match='not finite'):
        Difference().add((torch.tensor([1.0, wrong]),), (torch.ones(2),))


def test_random_encoders_are_refused_wherever_they_are():
    two = nn.Sequential(mmsnn.layers.DirectEncoder(2), mmsnn.layers.PoissonEncoder(2))
    with pytest.raises(ValueError, match='Poisson encoding draws random spikes, which ONNX cannot'):
        check_encoder(two, 'ONNX')


def test_a_task_model_without_single_outputs_is_refused():
    class NeedsSamples(nn.Module):
        def forward(self, inputs, data_samples, mode='tensor'):
            return data_samples[0]

    with pytest.raises(ValueError, match="NeedsSamples cannot run on images alone \\(mode='tensor'\\)"):
        Network(NeedsSamples()).output_names(torch.zeros(1))
