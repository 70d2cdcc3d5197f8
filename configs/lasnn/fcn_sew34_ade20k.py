# LaSNN: the spiking FCN on ADE20K, taught by its ANN twin
_base_ = ['../spiking/fcn_sew34_ade20k.py', '../_base_/distill/lasnn_paper.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/fcn_r34_ade20k.py',
    teacher_checkpoint='work_dirs/fcn_r34_ade20k/iter_80000.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
