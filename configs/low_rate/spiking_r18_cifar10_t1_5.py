# Spiking-ResNet-18 of full width on CIFAR-10, one time step, 5 % of neurons fire, taught by a published ResNet-20
_base_ = ['../ann/r18_cifar10_short.py', '../_base_/neurons/sakd.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(
        _base_.model,
        backbone=dict(type='mmsnn.SpikingResNet', depth=18, stem='cifar', T=1, neuron=_base_.neuron, out_indices=(3,)),
    ),
    teacher='mmsnn::ann/r20_cifar10.py',
    teacher_checkpoint='{{$MMSNN_DATA_ROOT:../shared/data}}/cifar_resnets/resnet20-12fca82f.th',
    losses=dict(
        # the logits alone: the two networks differ in width and in their number of stages
        loss_response=dict(type='LogitKL', tau=4.0, student='head.fc', teacher='head.fc', weight=1.0),
        loss_rate=dict(
            type='FiringRate',
            rate=0.05,
            # ours, not tuned; from 0, so that the network learns before it is told to be quiet
            weight=dict(kind='linear', values=[0.0, 10.0], milestones=[0, 5], by='epoch'),
        ),
    ),
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmsnn.DistillHook')]
# gradients explode in batch norms behind layers that fall silent
optim_wrapper = dict(clip_grad=dict(max_norm=1))
