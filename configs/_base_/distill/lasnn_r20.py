# LaSNN (Hong et al., 2023), a reconstruction, on CIFAR with ResNet-20 to 110: three stages
_base_ = './lasnn.py'
distill = dict(
    losses=dict(
        loss_attention=dict(
            student=[f'backbone.layer{i}' for i in range(1, 4)],
            teacher=[f'backbone.layer{i}' for i in range(1, 4)],
        ),
    ),
)
