# Strong and weak steps (Ding et al., NeurIPS 2025), a reconstruction, on classifiers, without a teacher: the surest
# step of a batch teaches the least sure one
distill = dict(losses=dict(loss_strong=dict(type='StrongWeak', student='backbone.layer4|neck|head.fc', tau=2.0)))
