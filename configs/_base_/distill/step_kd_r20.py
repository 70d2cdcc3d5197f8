# Per-step logits (Yu et al., ICML 2025) on CIFAR with ResNet-20 to 110, whose last stage is the third
_base_ = './step_kd.py'
distill = dict(losses=dict(loss_steps=dict(student='backbone.layer3|neck|head.fc')))
