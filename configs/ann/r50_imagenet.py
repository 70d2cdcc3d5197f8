# ResNet-50 on ImageNet by mmpretrain's recipe. The teacher in sakd/ is not trained by it, but loaded from torchvision
_base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py', '../_base_/mmsnn.py']
