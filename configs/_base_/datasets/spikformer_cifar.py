# the releases' augmentation of CIFAR: no crops, one operation of RandAugment, parts erased in the mean colour
cifar_pipeline = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=1,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.4,
        hparams=dict(pad_val=[125, 123, 114], interpolation='bicubic'),
    ),
    dict(type='RandomErasing', erase_prob=0.25, mode='const', max_area_ratio=1 / 3, fill_color=[125, 123, 114]),
    dict(type='PackInputs'),
]
