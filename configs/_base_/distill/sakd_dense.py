# SAKD (Qiu et al., Neural Networks 2024) on dense detectors. Level 1: start from the ANN's weights. Level 2: the
# backbone's four stages (the paper's feature term) and the dense response (our definition, the paper's detectors are
# not public). Both lead in the first epochs and then fade: kept up, they cost mAP (configs/sakd/README.md)
distill = dict(
    transfer=True,
    losses=dict(
        loss_feature=dict(
            type='FeatureMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            connector=dict(type='ConvBN'),
            weight=dict(kind='step', values=[0.1, 0.01], milestones=[1], by='epoch'),
        ),
        loss_response=dict(
            type='DenseResponse',
            student='bbox_head[0]',
            teacher='bbox_head[0]',
            weight=dict(kind='linear', values=[0.5, 0.0], milestones=[0, 5], by='epoch'),
        ),
    ),
)
