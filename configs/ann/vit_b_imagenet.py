# ViT-B on ImageNet by mmpretrain's recipe. The teacher in bkd/ is not trained by it, but has mmpretrain's weights
_base_ = ['mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py', '../_base_/mmsnn.py']
model = dict(head=dict(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)))  # mmpretrain's starts at 0
