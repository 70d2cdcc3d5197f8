# Affine projector (Hu, Li and Deng, NCE 2025), a reconstruction, on classifiers: the pooled membrane potential of the
# last neuron instead of its firing rate
_base_ = './affine.py'
distill = dict(losses=dict(loss_affine=dict(student='backbone.layer4@v|neck')))
