"""Parts of mmsnn's own are built in its scope, whatever mmengine writes into what a config inherits."""

import pytest
import tiny
from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry

from mmsnn.distill import Distiller
from mmsnn.neurons import LIF, build_neuron
from mmsnn.registry import build_own


@pytest.mark.parametrize('scope', ['mmsnn', 'mmdet', 'of_nobody'])
def test_scopes_of_bases_are_no_arguments(scope):
    neuron = build_neuron(dict(type='LIF', tau=1.5, _scope_=scope), T=2)
    assert type(neuron) is LIF and neuron.tau == 1.5
    assert build_own(dict(type='ConvBN', _scope_=scope), in_channels=2, out_channels=3)[0].out_channels == 3


def test_types_of_another_package_are_found_by_its_scope():
    other = Registry('model', parent=ROOT, scope='other_package')
    try:

        @other.register_module()
        class Theirs:
            def __init__(self, width):
                self.width = width

        assert build_own(dict(type='Theirs', width=3, _scope_='other_package')).width == 3
        with pytest.raises(KeyError, match="'Theirs' is not registered in mmsnn"):
            build_own(dict(type='Theirs', width=3))
    finally:
        del ROOT.children['other_package']


def test_losses_and_connectors_of_a_distiller():
    scope = dict(_scope_='somewhere')
    connector = dict(type='ConvBN', **scope)
    tap = dict(student='backbone.layer4', teacher='backbone.layer4')
    loss = dict(type='FeatureMSE', connector=connector, **tap, **scope)
    model = Distiller(tiny.classifier(spiking=True), tiny.classifier(spiking=False), losses=dict(loss_feature=loss))
    assert type(model.connectors['loss_feature'][0]).__name__ == 'ConvBN'
