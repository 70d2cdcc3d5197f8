# SAKD on ADE20K: the spiking DeepLabV3+ taught by its ANN twin
_base_ = ['../spiking/deeplabv3plus_sew50_ade20k.py', '../_base_/distill/sakd_seg.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/deeplabv3plus_r50_ade20k.py',
    teacher_checkpoint='work_dirs/deeplabv3plus_r50_ade20k/iter_80000.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
