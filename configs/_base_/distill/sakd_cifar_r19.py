# SAKD on CIFAR with ResNet-19: three stages, and 1x1 projectors, as released
_base_ = './sakd_cifar.py'
distill = dict(
    losses=dict(
        loss_feature=dict(
            student=[f'backbone.layer{i}' for i in range(1, 4)],
            teacher=[f'backbone.layer{i}' for i in range(1, 4)],
            connector=dict(kernel_size=1),
        ),
    ),
)
