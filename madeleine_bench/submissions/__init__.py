"""Submissions: packed, read as data, verified by recomputation, reported, added to a board.

pack       a new encoder, ready to run; card + embeddings + claimed records -> one zip
parsing    zip, JSON, YAML and safetensors of third parties, read to memory under limits, as data
bundle     what a zip claims, well-formed or refused
claims     V0: what contradicts the bundle itself; V1: what differs from a recomputed record
verify     the ladder V0 to V3
suspicion  what a reviewer has to look at: scores, labels that can be read off, known embeddings
report     what is done with a bundle under a time limit: reviewed, or added to a results folder
"""
