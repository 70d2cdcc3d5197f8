"""The teacher: a frozen task model that is not a submodule of the student."""

import copy
import random
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

import numpy as np
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmsnn.building import read
from mmsnn.checkpoints.fitting import load_weights
from mmsnn.checkpoints.loading import anns_are_checked, pretrained_from
from mmsnn.parts import parts_named


@contextmanager
def untouched_rng():
    """Context that restores the random number generators of torch, numpy and Python at its end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        yield
    np.random.set_state(numpy_state)
    random.setstate(python_state)


class Teacher:
    """A frozen model in eval mode, outside ``state_dict``, the optimizer and DDP. Copies of a Distiller share it.

    Args:
        config: a model config, or the path of a config file (``mmsnn::ann/retinanet_r34_coco.py`` or a file).
        checkpoint: the teacher's weights (file, URL, ``torchvision://NAME``); None initialises by its ``init_cfg``.
        key: name of the teacher among several, for messages.

    Raises:
        ValueError, FileNotFoundError: config or checkpoint cannot be read or do not fit; the message names the key.
    """

    def __init__(self, config: str | dict, checkpoint: str | None = None, key: str = 'teacher'):
        self.key, scope = ('model.teacher', 'model.teacher_checkpoint'), None
        if key != 'teacher':
            self.key = f'model.teachers.{key}.config', f'model.teachers.{key}.checkpoint'
        if isinstance(config, str):
            try:
                cfg = read(config)
            except Exception as error:
                raise ValueError(f'{self.key[0]}={config!r} cannot be read: {error}') from error
            scope, settings = cfg.get('default_scope'), cfg.model
            if cfg.get('data_preprocessor') is not None:
                settings.setdefault('data_preprocessor', cfg.data_preprocessor)
        else:
            settings = config
        if 'type' not in settings:
            whole = 'it looks like a whole config: give its path, or its model' if 'model' in settings else ''
            raise ValueError(
                f'{self.key[0]} has no type: '
                + (whole or "give the path of a config, or a model (type='RetinaNet', backbone=...)")
            )
        of_a_file = parts_named(cfg, f'{self.key[0]}={config!r}: ') if isinstance(config, str) else nullcontext()
        with DefaultScope.overwrite_default_scope(scope), of_a_file:
            self.model: nn.Module = ROOT_MODELS.build(copy.deepcopy(settings))
        # `train` of some detectors does not return the model, and `eval` calls it.
        self.model.eval()
        self.model.requires_grad_(False)
        self.checkpoint, self.settings = checkpoint, settings
        self.loaded = False

    def __deepcopy__(self, memo) -> 'Teacher':
        return self

    def apart(self) -> 'Teacher':
        """A teacher of its own for a copy of the Distiller that moves to another device or type."""
        own = copy.copy(self)
        own.model = copy.deepcopy(self.model)
        return own

    def load(self) -> None:
        """Load the checkpoint, or run the model's own initialisation if there is none; only the first call acts."""
        if self.loaded:
            return
        if self.checkpoint is None:
            try:
                with untouched_rng(), anns_are_checked():
                    self.model.init_weights()
            except (ValueError, FileNotFoundError) as error:
                raise type(error)(f'{self.key[0]}, whose own initialisation failed: {error}') from error
        else:
            # No initialisation before loading: it would download the weights that the teacher itself started from.
            try:
                load_weights(self.model, self.checkpoint, door='teacher', cfg=self.settings)
            except (ValueError, ImportError, OSError) as error:
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                raise kind(
                    f'{self.key[1]}={self.checkpoint!r} is refused: {error}\nTrain the teacher first '
                    '(python tools/train.py with its config in configs/ann), or point the key at its checkpoint'
                ) from error
        self.model.eval()
        self.model.requires_grad_(False)
        self.loaded = True

    @torch.no_grad()
    def predict(self, batch: dict, student: nn.Module) -> list:
        """Predictions for a batch of the student's data loader, on the images as the student sees them."""
        self.load()
        data = student.data_preprocessor(batch, False)
        return self.model(renormalise(data['inputs'], student, self.model), data['data_samples'], mode='predict')

    @property
    def random(self) -> str:
        """What is to be said of ``teacher_checkpoint`` if the weights come from nowhere; else empty."""
        inits = [getattr(m, 'init_cfg', None) for m in self.model.modules()]
        if self.checkpoint is not None or any(pretrained_from(i) for i in inits):
            return ''
        return (
            'is not set and the teacher has no pretrained init_cfg: a teacher with random weights teaches noise. Train '
            f'it with its config in configs/ann and set --cfg-options {self.key[1]}=FILE'
        )


_constants: WeakKeyDictionary[nn.Module, tuple[list[float], list[float]]] = WeakKeyDictionary()


def input_statistics(model: nn.Module) -> tuple[Tensor | float, Tensor | float, bool]:
    """Mean and standard deviation (0 and 1 without normalisation) of a model's data preprocessor, and whether it swaps
    the colour channels.
    """
    pre = getattr(model, 'data_preprocessor', None)
    swap = getattr(pre, '_channel_conversion', getattr(pre, 'channel_conversion', getattr(pre, 'to_rgb', False)))
    if pre is None or not getattr(pre, '_enable_normalize', False):
        return 0.0, 1.0, bool(swap)
    return pre.mean, pre.std, bool(swap)


def constants(model: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation as numbers, which are read from a GPU once: to read waits for all of its work."""
    pre = getattr(model, 'data_preprocessor', None)
    if pre not in _constants:
        mean, std, _ = input_statistics(model)
        numbers = tuple(torch.as_tensor(t).flatten().tolist() for t in (mean, std))
        if pre is None:
            return numbers
        _constants[pre] = numbers
    return _constants[pre]


def renormalise(images: Tensor, student: nn.Module, teacher: nn.Module) -> Tensor:
    """Convert images that the student's preprocessor normalised to what the teacher's preprocessor would give.

    Padding keeps the student's value (0 after normalisation, its mean colour). Images for a caffe-style teacher (BGR,
    no division by a standard deviation) are about 58 times as large, and so are its features while its weights are
    random; the norms of a trained teacher compensate for that.
    """
    (mean_s, std_s, swap_s), (mean_t, std_t, swap_t) = input_statistics(student), input_statistics(teacher)
    if images.dim() != 4 or (swap_s == swap_t and constants(student) == constants(teacher)):
        return images
    images = images * std_s + mean_s
    if swap_s != swap_t:
        images = images.flip(1)
    return (images - mean_t) / std_t
