# TSSD: the small spiking FCN on CamVid, 8 steps in training, 4 in testing with the plain config
_base_ = ['../spiking/fcn_sew18_camvid.py', '../_base_/distill/tssd_seg.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=dict(_base_.model, backbone=dict(_base_.model.backbone, T=8)),
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
