# SAKD on COCO: the spiking Faster R-CNN taught by its ANN twin
_base_ = ['../spiking/faster_rcnn_sew34_coco.py', '../_base_/distill/sakd_two_stage.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/faster_rcnn_r34_coco.py',
    teacher_checkpoint='work_dirs/faster_rcnn_r34_coco/epoch_12.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
