# LaSNN (Hong et al., 2023), a reconstruction: the membrane potential of each stage's last neuron instead of its output
_base_ = './lasnn.py'
distill = dict(losses=dict(loss_attention=dict(student=[f'backbone.layer{i}@v' for i in range(1, 5)])))
