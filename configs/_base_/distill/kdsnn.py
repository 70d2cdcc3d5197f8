# KDSNN (Xu et al., CVPR 2023) on classifiers: soft labels, and the pooled rates brought to the teacher's by a linear
# map; no need of a common architecture. The weights are ours, the paper tunes them
distill = dict(
    losses=dict(
        loss_soft=dict(type='LogitKL', tau=4.0, student='head.fc', teacher='head.fc', weight=1.0),
        loss_feature=dict(type='FeatureMSE', student='neck', teacher='neck', connector=dict(type='Affine'), weight=1.0),
    ),
)
