# Spikformer as a classifier of ImageNet, with the releases' smoothing and mixing of labels
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmsnn.Spikformer', arch='8-768', T=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=False,  # mixed labels have none
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
