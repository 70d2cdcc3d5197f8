# SAKD's neuron (Qiu et al., Neural Networks 2024): no input decay (v <- v/2 + x); the surrogate that the released code
# calls ATan is the triangle
neuron = dict(type='LIF', tau=2.0, decay_input=False, surrogate='triangle')
