# SAKD on CIFAR with ResNet-20 to 110: three stages
_base_ = './sakd_cifar.py'
distill = dict(
    losses=dict(
        loss_feature=dict(
            student=[f'backbone.layer{i}' for i in range(1, 4)],
            teacher=[f'backbone.layer{i}' for i in range(1, 4)],
        ),
    ),
)
