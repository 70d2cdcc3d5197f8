# SAKD on ADE20K: the fully spiking Semantic FPN taught by its ANN twin
_base_ = ['../spiking/spike_semfpn_sew34_ade20k.py', '../_base_/distill/sakd_seg.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/sem_fpn_bn_r34_ade20k.py',
    teacher_checkpoint='work_dirs/sem_fpn_bn_r34_ade20k/iter_160000.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
