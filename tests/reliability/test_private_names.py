"""What mmsnn leans on in other libraries without their promise: a change there fails here, by name.

`docs/internals.md` shows the same list as a table.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import mmsnn  # noqa: F401  mmcv's compiled ops

REPO = Path(__file__).parents[2]
TABLE = REPO / 'docs' / 'internals.md'

# the name as one would import it, the attribute of an object behind its class; and what mmsnn does with it
NAMES = {
    'mmengine.config.Config._get_cfg_path': 'finds `mmsnn::` bases of configs',
    'mmengine.config.Config._merge_a_into_b': 'keeps `deep_stem` and `avg_down` when a type is replaced',
    'mmengine.config.Config._get_base_files': 'the report tells what a config changes in its bases',
    'mmengine.config.Config._file2dict': 'the file of a config that cannot be read',
    'mmengine.config.Config._parse_lazy_import': 'the same, of a config in the new style',
    'mmengine.config.Config._cfg_dict': 'the walk through the zoos reads a config without a copy',
    'mmengine.config.utils.MODULE2PACKAGE': 'finds `mmseg::` bases under the import name',
    'mmengine.runner.checkpoint.load_url': 'is replaced by safe reading',
    'mmengine.runner.checkpoint._safe_torch_load': 'is replaced by safe reading',
    'mmengine.runner.checkpoint.load_state_dict': 'is wrapped: what fills a spiking model is checked',
    'mmengine.runner.checkpoint.CheckpointLoader._schemes': 'is restored after safe reading',
    'mmengine.runner.Runner._load_from': 'names the source of weights in messages',
    'mmengine.runner.Runner._resume': 'tells resuming from loading',
    'mmengine.runner.Runner._train_loop': 'tells training from testing',
    'mmengine.runner.EpochBasedTrainLoop._iter': 'seeds each step, and finds the place of a resumed epoch',
    'mmengine.runner.Runner._init_model_weights': '`mmsnn check` initialises without a training',
    'mmengine.model.utils._BatchNormXd': 'a batch norm that fuses with its neuron',
    'mmengine.model.BaseModel._run_forward': 'one forward of a batch, in `mmsnn check` and in `FiniteHook`',
    'mmengine.model.BaseModule._params_init_info': 'logs what initialised a parameter',
    'mmengine.model.BaseModule._is_init': 'marks a module as initialised',
    'mmengine.model.PretrainedInit._get_init_info': 'logs what initialised a parameter',
    'mmengine.model.ImgDataPreprocessor._enable_normalize': 'the teacher sees its own normalisation',
    'mmengine.model.ImgDataPreprocessor._channel_conversion': 'the teacher sees its own order of channels',
    'mmengine.optim._ParamScheduler': 'base of the schedule of the surrogate and of T',
    'mmengine._strategy.FSDPStrategy': 'FSDP saves the student under its own names',
    'mmengine._strategy.FSDPStrategy._wrap_model': 'FSDP wraps a Distiller',
    'mmengine.hooks.CheckpointHook._save_best_checkpoint': 'is overridden: writes before it deletes',
    'mmengine.hooks.EMAHook._swap_ema_parameters': 'an interrupted validation gives the weights back',
    'mmengine.visualization.Visualizer._vis_backends': 'which backends take histograms',
    'mmdet.models.roi_heads.StandardRoIHead._bbox_forward': 'saliency of the second stage',
    'mmseg.models.decode_heads.FPNHead._transform_inputs': 'the levels that a spiking Semantic FPN reads',
    'mmpretrain.models.utils.sparse_modules.SparseHelper._cur_active': "SparK's mask is repeated for every time step",
    'mmpretrain.models.ResNet._freeze_stages': 'is overridden, and called by the constructor there',
    'torch._C._current_graph_task_id': 'whether a backward pass runs, where checkpointing calls layers again',
    'torch._C._functorch': 'whether tensors are those of `torch.func`',
    'torch.autograd.forward_ad._current_level': 'whether forward-mode derivatives are asked for',
    'torch._weights_only_unpickler._get_allowed_globals': 'calls that would take memory by a number are replaced',
    'torch._utils._rebuild_tensor': 'shapes of a checkpoint without its data',
    'torch._tensor._rebuild_from_type_v2': 'reads tensors that carry attributes, and calls no class of tensors',
    'torch.utils._pytree.tree_flatten_with_path': 'names the inputs and outputs of an exported network',
    'torch.utils._python_dispatch.TorchDispatchMode': 'counts the products of spiking attention',
    'torch.nn.Module._apply': 'the teacher follows `.to()`',
    'torch.nn.Module._call_impl': 'the layer in which a forward pass failed',
    'torch.nn.Module._buffers': 'thresholds that are balanced',
    'torch.nn.Module._modules': 'replaces activations, shows an inner model under its own names',
    'torch.nn.Module._parameters': 'shows an inner model under its own names',
    'torch.nn.Module._load_from_state_dict': 'checkpoints without the count of an encoder load',
    'torch.nn.Module._load_state_dict_pre_hooks': 'modules that resize what they load are asked how',
    'torch.nn.Module._register_state_dict_hook': 'state dicts hold the inner model alone',
    'torch.nn.Module._forward_hooks': 'whether somebody watches a norm or neuron',
    'torch.nn.Module._forward_hooks_with_kwargs': 'whether somebody watches a neuron alone',
    'torch.nn.Module._forward_pre_hooks': 'whether somebody watches a norm or neuron',
    'torch.nn.Module._forward_pre_hooks_with_kwargs': 'whether somebody watches a neuron alone',
    'torch.nn.Module._backward_hooks': 'whether somebody watches a norm or neuron',
    'torch.nn.Module._backward_pre_hooks': 'whether somebody watches a norm or neuron',
    'torch.nn.Conv2d._conv_forward': 'is overridden: keeps spikes packed',
    'torch.nn.Conv2d._reversed_padding_repeated_twice': 'counts synaptic operations at borders',
    'torch.nn.modules.batchnorm._BatchNorm': 'any batch norm',
    'torch.nn.modules.batchnorm._NormBase': 'any norm with statistics',
    'torch.nn.modules.conv._ConvNd': 'any convolution',
    'torch.nn.modules.conv._ConvTransposeNd': 'any transposed convolution',
    'torch.Tensor._make_wrapper_subclass': 'tensors without memory, of event-driven networks',
    'torch._lazy_clone': 'copies that are made when somebody writes to a tensor of an event-driven network',
    'torch._C._data_address': 'whether such a copy was made',
    'torch._C._storage_address': 'whether two tensors share their memory',
    'torch.Tensor._version': 'whether a tensor was changed in place',
    'argparse._StoreAction': '`--help` comes without the libraries that options need',
    'torch.ops.torchvision._roi_align_backward': 'RoIAlign of mmcv without compiled ops',
    'torch.ops.torchvision._deform_conv2d_backward': 'deformable convolution of mmcv without compiled ops',
}


def resolve(name: str):
    """What ``name`` names; AttributeError where the library has no such thing any more."""
    parts = name.split('.')
    for i in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module('.'.join(parts[:i]))
        except ModuleNotFoundError:
            continue
        break
    for at, part in enumerate(parts[i:], i):
        if inspect.isclass(owner) and not hasattr(owner, part) and at == len(parts) - 1:
            # an attribute that the constructors set
            sources = [inspect.getsource(cls) for cls in owner.__mro__ if cls.__module__ != 'builtins']
            if any(re.search(rf"\bself\.{part}\b[^=\n]*=|['\"]{part}['\"]", source) for source in sources):
                return None
        owner = getattr(owner, part)
    return owner


@pytest.mark.parametrize('name', NAMES)
def test_is_still_there(name):
    import torchvision  # noqa: F401  registers its ops

    resolve(name)


def test_what_is_gone_is_noticed():
    with pytest.raises(AttributeError, match='_no_such_thing'):
        resolve('mmengine.runner.Runner._no_such_thing')
    with pytest.raises(AttributeError, match='_no_such_thing'):
        resolve('mmengine.runner.checkpoint._no_such_thing')


def test_the_table_shows_this_list():
    rows = re.findall(r'^\| `([\w.]+)` \| (.+) \|$', TABLE.read_text(encoding='utf-8'), re.MULTILINE)
    assert dict(rows) == NAMES


def private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__') and name != '_'


def test_nothing_private_is_used_that_the_list_lacks():
    """Private attributes, and private names imported from elsewhere, that mmsnn does not define itself."""
    used, own = {}, set()
    for path in sorted((REPO / 'mmsnn').rglob('*.py')):
        if '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            where = f'{path.relative_to(REPO)}:{getattr(node, "lineno", 0)}'
            if isinstance(node, ast.Attribute):
                if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == 'self':
                    own.add(node.attr)
                elif private(node.attr):
                    used.setdefault(node.attr, where)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.keyword) and node.arg:
                # vars(self).update(_inner=...)
                own.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.ImportFrom) and not node.level and not (node.module or '').startswith('mmsnn'):
                for part in [*node.module.split('.'), *(alias.name for alias in node.names)]:
                    if private(part):
                        used.setdefault(part, where)
    # Python documents os._exit, in spite of its name.
    known = {part for name in NAMES for part in name.split('.')} | {'_exit'}
    lacking = {name: where for name, where in used.items() if name not in own and name not in known}
    assert not lacking, f'{lacking}: enter them in NAMES here and in docs/internals.md'
