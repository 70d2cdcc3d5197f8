# FGD (Yang et al., CVPR 2022), its focal part, on the levels of a detector's feature pyramid; weights for RetinaNet
distill = dict(losses=dict(loss_fgd=dict(type='FGD', student='neck', teacher='neck', weight=1.0)))
