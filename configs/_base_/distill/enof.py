# EnOF (Guo et al., NeurIPS 2024) on classifiers: the teacher's classifier reads the student's pooled rates.
# Where the widths differ: connector=dict(type='Affine')
distill = dict(losses=dict(loss_enof=dict(type='EnOF', student='neck', teacher='neck')))
