"""What all tests share: one thread, fixed seeds, uninitialised memory full of NaN, and all that is registered."""

import gc
import inspect
import os
import random
import subprocess
import sys
from pathlib import Path

# before torch starts its threads
os.environ.setdefault('OMP_NUM_THREADS', '1')
# the tools write their reports in tests/report alone, which takes seconds each time
os.environ.setdefault('MMSNN_REPORT', '0')

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.fileio.handlers import file_handlers  # noqa: E402
from mmengine.model import BaseModule  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.runner import checkpoint as mmengine_checkpoint  # noqa: E402
from mmengine.runner.checkpoint import CheckpointLoader  # noqa: E402

import mmsnn  # noqa: E402, F401  first: it supplies mmcv's compiled ops where they are missing
from mmsnn.checkpoints import loading  # noqa: E402
from mmsnn.layers import TimeAware  # noqa: E402
from mmsnn.neurons import Neuron  # noqa: E402
from mmsnn.registry import MODELS  # noqa: E402

REPO = Path(__file__).parents[1]
NAN_FILLED = ('ops', 'neurons', 'layers', 'checkpoints', 'models', 'distill', 'reliability')

# what a backbone needs beyond the smallest values of `depth`, `arch` and `base_channels`
NEEDS = {
    'Spikify': dict(backbone=dict(type='mmdet.ResNet', depth=18, base_channels=8, norm_eval=False)),
    'Spikformer': dict(arch=dict(embed_dims=32, num_layers=2, num_heads=2)),
    'Spikingformer': dict(arch=dict(embed_dims=32, num_layers=2, num_heads=2)),
    'MetaSpikeFormer': dict(arch=dict(embed_dims=(16, 16, 24, 32), num_layers=(1, 1), num_heads=2)),
    'QKFormer': dict(arch=dict(embed_dims=32, num_layers=(1, 1, 1), num_heads=2)),
}

torch.set_num_threads(1)
MODELS.import_from_location()
# mmengine collects garbage whenever a data set is built, and would look through all that is imported each time
gc.freeze()


# what takes long, by what it does; `make test-fast` leaves it out
MARKERS = {
    'configs': ('configs', 'models/test_mixing.py', 'models/test_spiking_dense.py'),
    'kernels': ('ops', 'mmcv_ops'),
    'processes': ('engine/test_scale.py', 'engine/test_zoo.py'),
    'scorecard': ('reliability',),
    'tools': ('tools', 'demo', 'deploy', 'report', 'test_docs.py', 'test_install.py', 'test_import_hook.py'),
}


def pytest_pyfunc_call(pyfuncitem):
    """Run a test that trains in forked processes in a process of its own where this one can no longer fork so.

    PyTorch refuses a backward pass in a forked process once autograd has started threads, as opcheck has it do.
    """
    if pyfuncitem.get_closest_marker('forks') is None or _forks_can_train():
        return None
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', f'{pyfuncitem.path}::{pyfuncitem.name}'],
        cwd=REPO, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return True


def _forks_can_train() -> bool:
    child = os.fork()
    if not child:
        code = 1
        try:
            torch.ones(1, requires_grad=True).sum().backward()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def pytest_collection_modifyitems(items):
    """Mark tests by where they lie."""
    here = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(here)
        for name, places in MARKERS.items():
            if any(path.is_relative_to(place) for place in places):
                item.add_marker(name)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_scope_left_over():
    """A runner sets mmengine's default scope for good; no test may see what another, or its fixture, left."""
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


READERS = {name: getattr(mmengine_checkpoint, name) for name in ('load_url', '_safe_torch_load')}
SCHEMES = CheckpointLoader._schemes.copy()
HANDLERS = file_handlers.copy()


@pytest.fixture(autouse=True)
def tools_left_nothing_over():
    """The tools have mmengine read files safely for good; no test may see that another, or its fixture, ran one."""
    for name, read in READERS.items():
        setattr(mmengine_checkpoint, name, read)
    CheckpointLoader._schemes = SCHEMES.copy()
    file_handlers.update(HANDLERS)
    loading._checks.of_anns = False


@pytest.fixture(autouse=True)
def nan_in_fresh_memory(request):
    """`torch.empty` holds NaN in the tests of ops and modules, so that reading what nobody wrote shows."""
    if Path(request.path).relative_to(REPO / 'tests').parts[0] not in NAN_FILLED:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Folder of the real data sets: MMSNN_DATA_ROOT, else ``shared/data`` beside the repository."""
    root = Path(os.environ.get('MMSNN_DATA_ROOT', REPO.parent / 'shared' / 'data'))
    if not root.is_dir():
        pytest.skip(f'no data sets in {root}; set MMSNN_DATA_ROOT to their folder')
    return root


def registered(is_kind) -> list[type]:
    """The registered classes of one kind, by name."""
    found = {cls for cls in MODELS.module_dict.values() if inspect.isclass(cls) and is_kind(cls)}
    return sorted(found, key=lambda cls: cls.__name__)


NEURONS = registered(lambda cls: issubclass(cls, Neuron))
BACKBONES = registered(lambda cls: issubclass(cls, TimeAware) and issubclass(cls, BaseModule))


def pytest_generate_tests(metafunc):
    """A test that asks for ``neuron_type`` or ``backbone_type`` runs once for every registered one."""
    for name, classes in (('neuron_type', NEURONS), ('backbone_type', BACKBONES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, classes, ids=lambda cls: cls.__name__)


@pytest.fixture
def make_backbone(backbone_type):
    """Builds the smallest network of a registered backbone; `NEEDS` holds what cannot be guessed."""

    def make(**kwargs):
        takes = inspect.signature(backbone_type.__init__).parameters
        every = {name for cls in backbone_type.__mro__ for name in inspect.signature(cls.__init__).parameters}
        small = dict(NEEDS.get(backbone_type.__name__, {}))
        settings = getattr(backbone_type, 'arch_settings', None)
        for key in ('depth', 'arch'):
            if key in takes and settings:
                small[key] = next(iter(settings))
        if 'backbone' in takes:
            # what a wrapper does not take is the inner backbone's
            inner = {key: kwargs.pop(key) for key in list(kwargs) if key not in takes}
            small['backbone'] = {**small['backbone'], **inner}
        elif 'base_channels' in every:
            small['base_channels'] = 8
        return make_lively(backbone_type(**{**small, **kwargs}))

    return make


def make_lively(model: torch.nn.Module, image=None, bias=(0.5, 2.0)) -> torch.nn.Module:
    """Norms whose statistics fit ``image`` and whose biases let some neurons spike in every layer, and not all."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    modes = {m: m.training for m in model.modules()}
    momenta = [norm.momentum for norm in norms]
    generator = torch.Generator().manual_seed(1)
    for norm in norms:
        norm.weight.data.uniform_(0.8, 1.2, generator=generator)
        norm.bias.data.uniform_(*bias, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(3, 3, 32, 32, generator=generator) if image is None else image)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return model


@pytest.fixture
def lively():
    """`make_lively`, which test modules cannot import."""
    return make_lively
