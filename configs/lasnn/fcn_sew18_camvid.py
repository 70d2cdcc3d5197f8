# LaSNN: the small spiking FCN on CamVid, taught by its ANN twin
_base_ = ['../spiking/fcn_sew18_camvid.py', '../_base_/distill/lasnn_paper.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/fcn_r18_camvid.py',
    teacher_checkpoint='work_dirs/fcn_r18_camvid/epoch_20.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
