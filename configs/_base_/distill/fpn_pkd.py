# PKD (Cao et al., NeurIPS 2022) on the levels of a detector's feature pyramid
distill = dict(losses=dict(loss_pkd=dict(type='PKD', student='neck', teacher='neck', weight=6.0)))
