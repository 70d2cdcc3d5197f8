import pytest

import mmsnn  # noqa: F401  before the libraries: it supplies mmcv's compiled ops where they are missing
from mmsnn.engine.checks import check_config

COCO = dict(type='CocoDataset', backend_args=dict(backend='petrel'))
SEG = dict(type='BaseSegDataset', backend_args=dict(backend='petrel'))
CLS = dict(type='CustomDataset', backend_args=dict(backend='petrel'))


def check(model, dataset=COCO, classes=('a', 'b', 'c'), scope='mmdet', **cfg):
    """Errors and warnings about heads, without that the data is elsewhere."""
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))
    cfg = dict(default_scope=scope, model=model, train_dataloader=dict(dataset={**dataset, **metainfo}), **cfg)
    return {one.key: one for one in check_config(cfg) if one.level in ('error', 'warning')}


@pytest.mark.parametrize('number', [1, 80])
@pytest.mark.parametrize(
    ('model', 'key'),
    [
        (lambda n: dict(bbox_head=dict(type='RetinaHead', num_classes=n)), 'bbox_head'),
        (lambda n: dict(roi_head=dict(bbox_head=dict(num_classes=n))), 'roi_head.bbox_head'),
        (lambda n: dict(roi_head=dict(bbox_head=[dict(num_classes=3), dict(num_classes=n)])), 'roi_head.bbox_head.1'),
        (lambda n: dict(roi_head=dict(mask_head=dict(num_classes=n))), 'roi_head.mask_head'),
        (lambda n: dict(detector=dict(bbox_head=dict(num_classes=n))), 'detector.bbox_head'),
        (lambda n: dict(decode_head=[dict(num_classes=n)]), 'decode_head.0'),
        (lambda n: dict(auxiliary_head=dict(num_classes=n)), 'auxiliary_head'),
    ],
)
def test_every_head(model, key, number):
    found = check(dict(type='Some', **model(number)))
    assert list(found) == [f'model.{key}.num_classes']
    text = str(*found.values())
    assert f'{number}, but train_dataloader.dataset has 3 classes' in text and 'Write num_classes=3' in text
    # the student of a distiller
    found = check(dict(type='mmsnn.Distiller', student=model(number), teacher=dict(bbox_head=dict(num_classes=80))))
    assert list(found) == [f'model.student.{key}.num_classes']
    assert not check(dict(type='Some', **model(3)))


def test_the_default_of_a_head():
    found = check(dict(roi_head=dict(bbox_head=dict(type='Shared2FCBBoxHead'))))
    assert '80, the default of Shared2FCBBoxHead,' in str(found['model.roi_head.bbox_head.num_classes'])


@pytest.mark.parametrize(
    'model',
    [
        dict(rpn_head=dict(type='FCOSHead', num_classes=1)),
        dict(roi_head=dict(semantic_head=dict(type='FusedSemanticHead', num_classes=183))),
        dict(reid=dict(head=dict(type='LinearReIDHead', num_classes=380))),
        dict(backbone=dict(type='VGG', num_classes=10)),
        dict(auxiliary_head=dict(type='STDCHead', num_classes=2)),
        dict(language_model=dict(type='BertModel'), bbox_head=dict(type='GroundingDINOHead', num_classes=256)),
    ],
)
def test_heads_of_other_classes_are_left_alone(model):
    assert not check(dict(type='Some', **model))


def test_wrapped_datasets():
    model = dict(bbox_head=dict(type='RetinaHead', num_classes=80))
    wrapped = dict(type='RepeatDataset', dataset={**COCO, 'metainfo': dict(classes=('a',))})
    found = check(model, dict(type='ConcatDataset', datasets=[wrapped]), classes=None)
    assert 'train_dataloader.dataset.datasets.0.dataset has 1 class ' in str(found['model.bbox_head.num_classes'])


def test_panoptic_heads():
    panoptic = dict(type='CocoPanopticDataset', backend_args=dict(backend='petrel'))
    head = dict(type='Mask2FormerHead', num_things_classes=80, num_stuff_classes=53)
    assert not check(dict(panoptic_head=head), panoptic, None)
    assert not check(dict(roi_head=dict(bbox_head=dict(num_classes=80))), panoptic, None)
    found = check(dict(panoptic_head={**head, 'num_stuff_classes': 3}), panoptic, None)
    assert list(found) == ['model.panoptic_head.num_stuff_classes']
    # a Mask2Former of instances
    found = check(dict(panoptic_head={**head, 'num_things_classes': 3, 'num_stuff_classes': 0}))
    assert not found
    assert 'model.panoptic_head.num_things_classes' in check(dict(panoptic_head={**head, 'num_stuff_classes': 0}))


def test_weights_of_classes():
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0] * 5)
    found = check(dict(decode_head=dict(num_classes=3, loss_decode=loss)), SEG, scope='mmseg')
    assert '5 weights for 3 classes' in str(found['model.decode_head.loss_decode.class_weight'])
    for good in ([1.0] * 3, [1.0] * 4, None):
        loss = dict(type='CrossEntropyLoss', class_weight=good)
        assert not check(dict(decode_head=dict(num_classes=3, loss_decode=[loss])), SEG, scope='mmseg')


def classify(classes=3, **changes):
    cfg = dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=classes, **changes.pop('head', {})))
    return check(cfg, CLS, scope='mmpretrain', **changes)


def test_top_k_of_fewer_classes():
    accuracy = dict(type='Accuracy', topk=(1, 5))
    text = str(classify(val_evaluator=accuracy)['val_evaluator.topk'])
    assert 'top 5 is impossible with 3 classes' in text and 'Write topk=(1,)' in text
    assert 'test_evaluator.1.topk' in classify(test_evaluator=[dict(type='SingleLabelMetric'), accuracy])
    assert 'val_evaluator.topk' in classify(val_evaluator=dict(type='Accuracy', topk=4))
    assert 'model.head.topk' in classify(head=dict(topk=(1, 5), cal_acc=True))
    assert not classify(head=dict(topk=(1, 5)), val_evaluator=dict(type='Accuracy', topk=(1, 3)))


def test_the_preprocessor_writes_scores_for_as_many_classes():
    mixing = dict(type='Some', head=dict(type='LinearClsHead', num_classes=3), train_cfg=dict(augments=[1]))
    found = check(mixing, CLS, scope='mmpretrain', data_preprocessor=dict(num_classes=1000))
    assert 'Write num_classes=3' in str(found['data_preprocessor.num_classes'])
    # nothing reads it
    assert not classify(data_preprocessor=dict(num_classes=1000))


def test_a_classifier_may_have_more_outputs_than_the_types_classes():
    found = check(dict(head=dict(num_classes=21843)), {**CLS, 'type': 'ImageNet'}, None, 'mmpretrain')
    assert found['model.head.num_classes'].level == 'warning'
    assert classify(7)['model.head.num_classes'].level == 'error'
