# SAKD (Qiu et al., Neural Networks 2024) on two-stage detectors. Level 1: start from the ANN's weights. Level 2: the
# backbone's four stages (the paper's feature term) and the response of the RPN (our definition, the paper's detectors
# are not public)
distill = dict(
    transfer=True,
    losses=dict(
        loss_feature=dict(
            type='FeatureMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            connector=dict(type='ConvBN'),
            weight=1.0,
        ),
        loss_response=dict(
            type='DenseResponse', head='rpn_head', student='rpn_head[0]', teacher='rpn_head[0]', weight=1.0
        ),
    ),
)
