# LaSNN: the spiking RetinaNet on COCO, taught by its ANN twin
_base_ = ['../spiking/retinanet_sew34_coco.py', '../_base_/distill/lasnn_paper.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/retinanet_r34_coco.py',
    teacher_checkpoint='work_dirs/retinanet_r34_coco/epoch_12.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
