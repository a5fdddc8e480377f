"""Every published file of a zoo, and the teacher as the reference, on the same photos by the same protocols.

`python -m train.evaluate.zoo` measures; `photos` says on what, `subjects` what, `features` keeps what they answered,
`judge` makes figures of it.
"""
