# BKD: Spikingformer-8-512 with CML on ImageNet, taught by ViT-B
_base_ = ['../spiking/spikingformer_8-512_imagenet.py', '../_base_/distill/bkd_vit.py']
model = dict(
    _delete_=True,
    type='mmsnn.Distiller',
    student=_base_.model,
    teacher='mmsnn::ann/vit_b_imagenet.py',
    # mmpretrain's, 82.37 %; the paper's teacher, 81.78 %, began on ImageNet-21k
    teacher_checkpoint='https://mmassets.onedl.ai/mmclassification/v0/vit/'
    'vit-base-p16_pt-32xb128-mae_in1k_20220623-4c544545.pth',
    **_base_.distill,
)
custom_hooks = [dict(type='mmsnn.DistillHook')]
