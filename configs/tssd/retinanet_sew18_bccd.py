# TSSD: the small spiking RetinaNet on BCCD, 8 steps in training, 4 in testing with the plain config
_base_ = ['../spiking/retinanet_sew18_bccd.py', '../_base_/distill/tssd_dense.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=8)),
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
