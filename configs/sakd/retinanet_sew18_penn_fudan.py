# SAKD on Penn-Fudan: the spiking RetinaNet taught by its ANN twin
_base_ = ['../spiking/retinanet_sew18_penn_fudan.py', '../_base_/distill/sakd_dense.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/retinanet_r18_penn_fudan.py',
    teacher_checkpoint='work_dirs/retinanet_r18_penn_fudan/epoch_60.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
