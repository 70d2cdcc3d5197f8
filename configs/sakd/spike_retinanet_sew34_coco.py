# SAKD on COCO: the fully spiking RetinaNet taught by its ANN twin
_base_ = ['../spiking/spike_retinanet_sew34_coco.py', '../_base_/distill/sakd_dense.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/retinanet_bn_r34_coco.py',
    teacher_checkpoint='work_dirs/retinanet_bn_r34_coco/epoch_12.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
