# LaSNN: the small spiking RetinaNet on BCCD, taught by its ANN twin
_base_ = ['../spiking/retinanet_sew18_bccd.py', '../_base_/distill/lasnn_paper.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/retinanet_r18_bccd.py',
    teacher_checkpoint='work_dirs/retinanet_r18_bccd/epoch_60.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
