# Penn-Fudan pedestrians: 170 street images of about 500x400, 1 class, COCO format
_base_ = './bccd_detection.py'
data_root = '{{$MMSNN_DATA_ROOT:../shared/data}}/penn_fudan/'
metainfo = dict(classes=('person',), palette=[(220, 20, 60)])
scale = (320, 256)

# as BCCD's, but in this size, and people have an upright
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], scale=scale),
    dict(type='RandomFlip', prob=0.5),
    _base_.train_pipeline[4],
]
test_pipeline = [_base_.test_pipeline[0], dict(_base_.test_pipeline[1], scale=scale), *_base_.test_pipeline[2:]]
train_dataloader = dict(
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/instances_train.json', pipeline=train_pipeline
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/instances_val.json', pipeline=test_pipeline
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
