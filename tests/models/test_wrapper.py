"""A wrapped model shows itself under its own names, alone and inside another one."""

import copy
import io

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn

from mmsnn.models.wrapper import Transparent


class Inner(BaseModule):
    answer = 42

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def twice(self, number):
        return 2 * number


class Wrapper(Transparent, BaseModule):
    inner = 'body'
    hidden = ('extra',)

    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)
        self.body = Inner()
        self._make_transparent()

    def forward(self, x):
        return self.body.norm(self.body.conv(x))


class Outer(BaseModule):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(3, 2)


# torch's own functions, and mmengine's, which walk the modules themselves
SAVE = dict(torch=lambda m: m.state_dict(), mmengine=get_state_dict)
LOAD = dict(
    torch=lambda m, state: m.load_state_dict(state, strict=True),
    mmengine=lambda m, state: load_state_dict(m, state, strict=True),
)
places = pytest.mark.parametrize('place', [lambda m: m, Outer], ids=['alone', 'inside'])


class TestStateDict:
    @places
    @pytest.mark.parametrize('save', SAVE)
    def test_holds_the_inner_keys(self, place, save):
        expected = place(Inner()).state_dict()
        state = SAVE[save](place(Wrapper()))
        assert list(state) == list(expected)
        assert [v.shape for v in state.values()] == [v.shape for v in expected.values()]

    @places
    @pytest.mark.parametrize('save', SAVE)
    @pytest.mark.parametrize('load', LOAD)
    def test_goes_both_ways(self, place, save, load):
        plain, wrapped = place(Inner()), place(Wrapper())
        assert not torch.equal(
            *(m.state_dict()[k] for m in (plain, wrapped) for k in plain.state_dict() if 'conv.weight' in k)
        )
        extra = copy.deepcopy([m for m in wrapped.modules() if isinstance(m, Wrapper)][0].extra.state_dict())
        LOAD[load](wrapped, SAVE[save](plain))
        for name, value in SAVE[save](wrapped).items():
            assert torch.equal(value, plain.state_dict()[name])
        after = [m for m in wrapped.modules() if isinstance(m, Wrapper)][0].extra.state_dict()
        assert all(torch.equal(after[k], v) for k, v in extra.items())
        other = place(Inner())
        LOAD[load](other, SAVE[save](wrapped))
        assert torch.equal(next(other.parameters()), next(p for n, p in wrapped.named_parameters() if 'conv' in n))

    @places
    def test_strict_loading_reports_inner_names(self, place):
        wrapped = place(Wrapper())
        state = dict(wrapped.state_dict())
        prefix = 'backbone.' if isinstance(wrapped, Outer) else ''
        state.pop(f'{prefix}conv.weight')
        assert wrapped.load_state_dict(state, strict=False).missing_keys == [f'{prefix}conv.weight']
        with pytest.raises(RuntimeError, match=rf'Missing key.*"{prefix}conv.weight"'):
            wrapped.load_state_dict(state)
        state = {**wrapped.state_dict(), f'{prefix}more': torch.zeros(1)}
        assert len(wrapped.load_state_dict(state, strict=False).unexpected_keys) == 1
        with pytest.raises(RuntimeError, match='Unexpected key.*more'):
            wrapped.load_state_dict(state)

    def test_the_given_state_is_left_alone(self):
        state = Inner().state_dict()
        keys = list(state)
        Wrapper().load_state_dict(state)
        assert list(state) == keys

    def test_survives_files_and_copies(self):
        model = Wrapper()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = copy.deepcopy(Wrapper())
        other.load_state_dict(torch.load(file, weights_only=True))
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


class TestNames:
    @places
    def test_parameters_and_modules(self, place):
        plain, wrapped = place(Inner()), place(Wrapper())
        names = [n for n, _ in wrapped.named_parameters()]
        assert [n for n in names if 'extra' not in n] == [n for n, _ in plain.named_parameters()]
        assert len(names) - len(list(plain.parameters())) == 2
        assert {n for n, _ in plain.named_modules()} <= {n for n, _ in wrapped.named_modules()}
        assert len(list(wrapped.parameters())) == len(names)

    def test_each_module_comes_once(self):
        found = [m for _, m in Outer(Wrapper()).named_modules()]
        assert len(found) == len(set(map(id, found))) == 7

    def test_attributes_of_the_inner_model(self):
        model = Wrapper()
        assert model.answer == 42 and model.twice(4) == 8 and model.conv is model.body.conv
        assert hasattr(model, 'norm') and not hasattr(model, 'neck')
        with pytest.raises(AttributeError, match='neck'):
            model.neck  # noqa: B018

    def test_copy_is_independent(self):
        model = Wrapper()
        other = copy.deepcopy(model)
        with torch.no_grad():
            model.conv.weight.add_(1)
        assert not torch.equal(other.conv.weight, model.conv.weight)
        assert list(other.state_dict()) == list(model.state_dict())


class TestSetting:
    """What is set reaches the inner model, as what is read comes from it."""

    def test_children(self):
        model = Wrapper()
        conv = nn.Conv2d(2, 3, 3)
        model.conv = conv
        assert model.body.conv is conv and 'conv' not in model._modules
        assert model(torch.zeros(1, 2, 5, 5)).shape == (1, 3, 3, 3)
        assert dict(model.named_parameters())['conv.weight'] is conv.weight
        # of a name that neither has
        model.neck = nn.Linear(1, 1)
        assert model.body.neck is model.neck and 'neck.weight' in model.state_dict()
        assert 'neck' not in model._modules and model.load_state_dict(model.state_dict())

    def test_parameters_and_attributes(self):
        model = Wrapper()
        model.scale = nn.Parameter(torch.ones(1))
        model.body.register_buffer('count', torch.zeros(1))
        model.count = torch.ones(1)
        assert model.body.scale is model.scale and model.body._buffers['count'] == 1 and 'scale' in model.state_dict()
        model.answer = 43
        assert model.body.answer == 43 and 'answer' not in model.__dict__

    def test_own(self):
        """Its own names, the training flag and what neither knows stay with the wrapper."""
        model = Wrapper()
        extra, body = nn.Linear(4, 4), Inner()
        model.extra, model.body, model.mark, model.shows_itself = extra, body, 'x', False
        assert model._modules == {'extra': extra, 'body': body} and not hasattr(body, 'extra')
        assert model.__dict__['mark'] == 'x' and not hasattr(body, 'mark') and not hasattr(body, 'shows_itself')
        assert model.eval().training is body.training is False and model.conv is body.conv

    def test_deleting(self):
        model = Wrapper()
        del model.norm
        assert not hasattr(model.body, 'norm') and not any('norm' in key for key in model.state_dict())
        del model.extra
        assert list(model._modules) == ['body']
        with pytest.raises(AttributeError):
            del model.nothing

    def test_adding(self):
        model = Wrapper()
        model.add_module('conv', nn.Conv2d(2, 3, 3))
        model.add_module('neck', nn.Identity())
        model.add_module('extra', nn.Identity())
        assert model.body.conv.kernel_size == (3, 3) and isinstance(model.body.neck, nn.Identity)
        assert list(model._modules) == ['extra', 'body']

    def test_read_only(self):
        """A property of the wrapper keeps modules out."""

        class Guarded(Wrapper):
            @property
            def teacher(self):
                return None

        model = Guarded()
        with pytest.raises(AttributeError, match='teacher'):
            model.teacher = nn.Linear(1, 1)
        assert 'teacher' not in model._modules and not hasattr(model.body, 'teacher')

    def test_copies(self):
        other = copy.deepcopy(Wrapper())
        other.conv = nn.Conv2d(2, 3, 3)
        assert other.body.conv.kernel_size == (3, 3)


VIT = dict(type='mmpretrain.VisionTransformer', arch=dict(embed_dims=16, num_layers=3, num_heads=2,
           feedforward_channels=32), img_size=16, patch_size=8)  # fmt: skip


def vit_classifier(spiking: bool) -> dict:
    backbone = dict(type='mmsnn.Spikify', backbone=VIT, T=2) if spiking else VIT
    head = dict(type='mmpretrain.VisionTransformerClsHead', num_classes=5, in_channels=16)
    return dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head)


@pytest.mark.parametrize('distilled', [False, True])
@pytest.mark.parametrize('spiking', [False, True])
def test_layers_decay_as_in_the_plain_network(spiking, distilled):
    """Rates of layer-wise decay, by the names that the plain network has for its parameters."""
    import mmpretrain.engine  # noqa: F401
    from mmengine.optim import build_optim_wrapper

    def rates(model):
        kind = 'mmpretrain.LearningRateDecayOptimWrapperConstructor'
        optimizer = dict(type='AdamW', lr=1.0, weight_decay=0.05)
        cfg = dict(optimizer=optimizer, constructor=kind, paramwise_cfg=dict(layer_decay_rate=0.5))
        groups = build_optim_wrapper(model, cfg).optimizer.param_groups
        names = {id(p): name for name, p in model.named_parameters()}
        return {names[id(p)]: group['lr'] for group in groups for p in group['params']}

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected = rates(MODELS.build(vit_classifier(False)))
    assert len(set(expected.values())) == 5
    cfg = vit_classifier(spiking)
    if distilled:
        term = dict(type='LogitKL', student='head', teacher='head')
        cfg = dict(type='mmsnn.Distiller', student=cfg, teacher=vit_classifier(False), losses=dict(loss_kd=term))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert rates(MODELS.build(cfg)) == expected
