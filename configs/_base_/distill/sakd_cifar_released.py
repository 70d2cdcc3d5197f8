# SAKD as the released CIFAR script runs (cifar/train_KD.py): features alone. The ANN's weights go into the teacher and
# not into the student (no level 1), and the weight c of the response is 0, in a run that the script calls an ablation
distill = dict(
    losses=dict(
        loss_feature=dict(
            type='FeatureMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            connector=dict(type='ConvBN', kernel_size=3),  # as released for CIFAR
            weight=100.0,  # beta
        ),
    ),
)
