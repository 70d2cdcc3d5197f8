"""A wrapped model shows itself under its own names, alone and inside another one."""

import copy
import io

import pytest
import torch
from mmengine.model import BaseModule
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
