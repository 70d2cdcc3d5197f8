"""Comparing heads with the data: their numbers of classes, and the metrics of their scores."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmengine.registry import MODELS

from mmsnn.building import type_name

from .data import Data, evaluators
from .findings import Finding, error, note, number, some, warning

# Parts of models whose classes are not those of the data: they are proposals, stuff, or persons.
OTHERS = ('rpn_head', 'semantic_head', 'reid', 'backbone', 'neck', 'data_preprocessor')
# Heads that do not predict the classes of the data but, for instance, boundaries.
OTHER_TYPES = ('STDCHead',)


@dataclass
class Head:
    """A head's config: its key, its ``num_classes``, and whether that is the default of its class."""

    key: str
    cfg: Mapping
    num_classes: int
    default: bool = False


def student_config(cfg: Mapping) -> tuple[str, Mapping]:
    """The key and the config of the model that is trained: in a Distiller, the student."""
    key, model = 'model', cfg.get('model') or {}
    if type_name(model) == 'Distiller':
        key, model = 'model.student', model.get('student') or {}
    return key, model


def find_heads(model: Mapping, key: str, scope: str | None = None) -> list[Head]:
    """The heads of a model, at any depth, that predict the classes of the data."""
    heads = []
    for name, value in model.items():
        if name in OTHERS:
            continue
        several = isinstance(value, (list, tuple))
        for i, one in enumerate(value if several else [value]):
            if not isinstance(one, Mapping):
                continue
            where = f'{key}.{name}.{i}' if several else f'{key}.{name}'
            if name.endswith('head') and type_name(one) not in OTHER_TYPES:
                given = one.get('num_classes')
                classes = _default(one, scope) if given is None else given
                if isinstance(classes, int) and classes > 0:
                    heads.append(Head(where, one, classes, default=given is None))
            heads += find_heads(one, where, scope)
    return heads


def _default(head: Mapping, scope: str | None) -> int | None:
    """The default of ``num_classes`` in the class of a head."""
    kind = head.get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(head.get('_scope_', scope)) as registry:
            kind = registry.get(kind)
    for cls in getattr(kind, '__mro__', ()):
        parameter = inspect.signature(cls.__init__).parameters.get('num_classes') if '__init__' in vars(cls) else None
        if parameter is not None:
            return parameter.default if isinstance(parameter.default, int) else None
    return None


def reads_text(model: Mapping) -> bool:
    """Whether a model detects objects that a text describes, and so has no fixed classes."""
    return 'language_model' in model or 'text_encoder' in model


def check_heads(cfg: Mapping, heads: list[Head], data: list[Data]) -> Iterator[Finding]:
    """Check that each head predicts as many classes as the data has, and enough for the metrics."""
    key, model = student_config(cfg)
    if reads_text(model):
        return
    known = [one for one in data if one.classes and 'BaseVideoDataset' not in one.bases and one.as_many_as_folders]
    if known:
        for head in heads:
            yield from _check_number(head, known[0])
        yield from _check_things(model, key, known[0])
    for head in heads:
        yield from _check_weights(head)
    if heads:
        yield from _check_preprocessor(cfg, key, model, heads[0])
        yield from _check_topk(cfg, heads)


def _metainfo(data: Data, name: str, default):
    value = (data.cfg.get('metainfo') or {}).get(name) or (getattr(data.cls, 'METAINFO', None) or {}).get(name)
    return default if value is None else value


def _check_number(head: Head, data: Data) -> Iterator[Finding]:
    classes, key = data.classes, f'{head.key}.num_classes'
    # The boxes and masks of a panoptic model belong to things.
    panoptic = 'CocoPanopticDataset' in data.bases
    if panoptic:
        classes = _metainfo(data, 'thing_classes', classes)
    wanted = len(classes)
    if head.num_classes == wanted:
        yield note(key, f'{number(wanted, "class")}, as {data.key} has')
        return
    stands = f'{head.num_classes}, the default of {type_name(head.cfg)},' if head.default else f'{head.num_classes},'
    text = f'{stands} but {data.key} has {number(wanted, "class")} ({some(classes, 3)})'
    if data.are_the_types:
        text += f', which are those of {type_name(data.cfg)}: give its metainfo=dict(classes=(...)) where yours differ'
    text += f'. Write num_classes={wanted}'
    if head.num_classes == 1 and wanted == 2:
        text += ' (and out_channels=1 to distinguish the two by a single map)'
    # Scores of classes that never occur do not harm a classification.
    harmless = head.num_classes > wanted and data.are_the_types and head.key.endswith('.head')
    yield (warning if harmless else error)(key, text)


def _check_things(model: Mapping, key: str, data: Data) -> Iterator[Finding]:
    """Check the numbers of things and stuff in the heads of panoptic models and MaskFormers."""
    panoptic = 'CocoPanopticDataset' in data.bases
    things = _metainfo(data, 'thing_classes', data.classes) if panoptic else data.classes
    wanted = dict(num_things_classes=len(things))
    if panoptic:
        wanted['num_stuff_classes'] = len(_metainfo(data, 'stuff_classes', ()))
    for name, head in model.items():
        if not isinstance(head, Mapping) or not name.endswith('head'):
            continue
        for argument, count in wanted.items():
            given = head.get(argument)
            if isinstance(given, int) and given != count:
                text = f'{given}, but {data.key} has {count}. Write {argument}={count}'
                yield error(f'{key}.{name}.{argument}', text)


def _check_weights(head: Head) -> Iterator[Finding]:
    """Check the number of class weights in the losses."""
    for where, loss in _losses(head.cfg, head.key):
        weights = loss.get('class_weight')
        # There may be one more weight for the background.
        if isinstance(weights, (list, tuple)) and len(weights) not in (head.num_classes, head.num_classes + 1):
            yield error(
                f'{where}.class_weight',
                f'{len(weights)} weights for {head.num_classes} classes ({head.key}.num_classes)',
            )


def _losses(cfg: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    for name, value in cfg.items():
        several = isinstance(value, (list, tuple))
        for i, one in enumerate(value if several else [value]):
            if name.startswith('loss') and isinstance(one, Mapping):
                yield f'{key}.{name}.{i}' if several else f'{key}.{name}', one


def _check_preprocessor(cfg: Mapping, key: str, model: Mapping, head: Head) -> Iterator[Finding]:
    """Check the number of classes for which mmpretrain's data preprocessor makes scores of labels."""
    where, preprocessor = f'{key}.data_preprocessor', model.get('data_preprocessor')
    if preprocessor is None:
        where, preprocessor = 'data_preprocessor', cfg.get('data_preprocessor') or {}
    given = preprocessor.get('num_classes')
    augments = (model.get('train_cfg') or {}).get('augments') or preprocessor.get('batch_augments')
    if isinstance(given, int) and given != head.num_classes and (augments or preprocessor.get('to_onehot')):
        yield error(
            f'{where}.num_classes',
            f'{given}, but {head.key}.num_classes={head.num_classes}. Write num_classes={head.num_classes}',
        )


def _check_topk(cfg: Mapping, heads: list[Head]) -> Iterator[Finding]:
    """Check that there are at least k classes for a top-k accuracy."""
    head = next((head for head in heads if head.key.endswith('.head')), None)
    if head is None:
        return
    asked = [
        (key, metric)
        for part in ('val', 'test')
        for key, metric in evaluators(cfg, part)
        if type_name(metric) == 'Accuracy'
    ]
    if head.cfg.get('cal_acc'):
        asked.append((head.key, head.cfg))
    for key, one in asked:
        topk = one.get('topk', 1)
        topk = [topk] if isinstance(topk, int) else [k for k in topk if isinstance(k, int)]
        if topk and max(topk) > head.num_classes:
            right = tuple(k for k in topk if k <= head.num_classes) or (1,)
            yield error(
                f'{key}.topk',
                f'top {max(topk)} is impossible with {number(head.num_classes, "class")} ({head.key}.num_classes). '
                f'Write topk={right}',
            )
