# SAKD on Penn-Fudan's masks: the spiking Mask R-CNN taught by its ANN twin
_base_ = ['../spiking/mask_rcnn_sew18_penn_fudan.py', '../_base_/distill/sakd_two_stage.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/mask_rcnn_r18_penn_fudan.py',
    teacher_checkpoint='work_dirs/mask_rcnn_r18_penn_fudan/epoch_60.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
