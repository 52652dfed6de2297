"""Exact rescaling of channels: where a factor may go, and what takes it back.

A factor on a channel of a tensor changes nothing in floating point where what gives the channel
takes the factor and everything that reads it takes the inverse. `walk` finds for a whole model
which channels have such factors, and which of them have one in common; `factors` chooses them.
"""
