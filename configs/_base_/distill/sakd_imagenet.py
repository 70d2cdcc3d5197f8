# SAKD (Qiu et al., Neural Networks 2024) on ImageNet. Level 1: start from the ANN's weights. Level 2: the four stages
# and the logits
distill = dict(
    transfer=True,
    losses=dict(
        loss_feature=dict(
            type='FeatureMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            connector=dict(type='ConvBN'),
            # beta: strong for 10 epochs, then a reminder
            weight=dict(kind='step', values=[10, 0.01], milestones=[10], by='epoch'),
        ),
        # c = 10
        loss_response=dict(type='LogitKL', tau=1.0, student='head.fc', teacher='head.fc', weight=10.0),
    ),
)
