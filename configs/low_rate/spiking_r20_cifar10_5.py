# SAKD on CIFAR-10 with a student that fires at 5 %
_base_ = '../sakd/spiking_r20_cifar10.py'
model = dict(
    losses=dict(
        loss_rate=dict(
            type='FiringRate',
            rate=0.05,
            # ours: after a third of the training as large as the distillation terms are then
            weight=dict(kind='linear', values=[0.0, 10.0], milestones=[0, 5], by='epoch'),
        )
    )
)
