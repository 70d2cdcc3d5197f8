# SAKD (Qiu et al., Neural Networks 2024) on CIFAR. Level 1: start from the ANN's weights. Level 2: the four stages.
# No response term: its weight c is 0 in the released code (LogitKL at tau=4, were it used)
distill = dict(
    transfer=True,
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
