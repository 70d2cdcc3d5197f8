# SAKD on DigitScenes: the spiking RetinaNet taught by its ANN twin
_base_ = ['../spiking/retinanet_sew18_digits.py', '../_base_/distill/sakd_dense.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/retinanet_r18_digits.py',
    teacher_checkpoint='work_dirs/retinanet_r18_digits/epoch_8.pth',
    transfer=_base_.distill.transfer,
    losses=dict(
        _base_.distill.losses,
        # four epochs instead of a detector's usual twelve: the response fades in two
        loss_response=dict(
            _base_.distill.losses.loss_response, weight=dict(kind='linear', values=[0.5, 0.0], milestones=[0, 2])
        ),
    ),
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
